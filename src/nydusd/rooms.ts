// SPDX-License-Identifier: Apache-2.0
// What the adapter is given besides the service: passing file descriptors over sockets, and the
// keeper, a small process that holds the device open when no supervisor does. The module with
// the real ones is loaded only after the API socket listens; tests bring their own.

import type { Log } from "../platform/log.ts";
import type { BlobService } from "./service.ts";

export interface FdPassing {
  /**
   * Connects to a unix stream socket, sends all bytes, the fd (when there is one) with the first
   * of them, and closes. Without bytes and fd it only connects and closes.
   */
  sendWithFd(
    socketPath: string,
    bytes: Uint8Array,
    fd: number | undefined,
    timeoutMs: number,
  ): Promise<void>;
  /** Connects, sends `request`, and reads to the end of the stream. The caller owns the fd. */
  receiveWithFd(
    socketPath: string,
    request: Uint8Array,
    timeoutMs: number,
    bytesMax: number,
  ): Promise<{ bytes: Uint8Array; fd: number | undefined }>;
}

/** The line to a running keeper. */
export interface KeeperLink {
  /** How many objects the kernel has open: a keeper without any to keep may go. */
  tell(openObjects: number): void;
  /** An orderly end: the keeper lets the device go. */
  bye(): Promise<void>;
}

export interface Keeper {
  /** The device, from the keeper of a daemon that died; undefined when there is no keeper. */
  take(): Promise<number | undefined>;
  /** Starts a keeper for this device, or finds the one that runs. */
  start(deviceFd: number): Promise<KeeperLink>;
}

export interface ServiceOptions {
  readonly fscacheDir: string;
  readonly tag: string | undefined;
  readonly threads: number;
  readonly log: Log;
  /** A configuration file of erofsd's own. */
  readonly config: string | undefined;
}

/** What the module behind the adapter exports. */
export interface ServiceModule {
  createBlobService(options: ServiceOptions): Promise<BlobService>;
  createFdPassing(): FdPassing;
  createKeeper(options: { socketPath: string; log: Log }): Keeper;
}
