// SPDX-License-Identifier: Apache-2.0
// The contract between a kernel door and the rest: what the kernel asks, and how it is
// answered. Nothing outside kernel/ knows which door is open.
//
// The door reads requests and calls the handler, one method a request, on the event loop.
// Each request is an owned object that takes exactly one answer; answering twice is a bug
// that throws, and a request the kernel has given up meanwhile takes its answer silently.

import type { DaemonError } from "../errors.ts";
import type { Extent } from "../units.ts";

/** One open object: a cache file the kernel reads. Created by the door, alive until `closed`. */
export interface KernelObject {
  /** Unique among all objects this door ever opened; for maps and logs. */
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  /** Readers ask also for what is in the file; else only for what is not. */
  readonly seesHits: boolean;
  /**
   * Writes whole 4 KiB blocks: `fileOffset` and `length` are multiples of 4096, and so is the
   * address of `bytes[bytesOffset]` (use platform/native allocateAligned). `bytes` must stay
   * unchanged until it settles. Resolves when the kernel can see the data.
   * Faults: cache_no_space, cache_write_failed, cancelled (the object has closed).
   */
  write(
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void>;
  /**
   * The extents that hold data, in order, 4 KiB granular, up to `sizeBytes`.
   * Waits for the kernel to have the file ready. Faults: cache_write_failed, cancelled.
   */
  dataExtents(sizeBytes: number): Promise<Extent[]>;
}

/** The kernel opens an object by its keys. Until it is answered the mounting process cannot be killed. */
export interface OpenRequest {
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly answered: boolean;
  /**
   * Accept with the object's size in bytes (the kernel drops a cached file recorded with another
   * size). Returns the object; undefined when the kernel has given the request up.
   */
  accept(sizeBytes: number): KernelObject | undefined;
  /** Refuse: the mount fails. The kernel gets the fault's errno, its users only ENOBUFS or EIO. */
  refuse(error: DaemonError): void;
}

/** A reader waits for `extent` of `object`: offset and length are multiples of 4096. */
export interface ReadRequest {
  /** Unique among all requests of this process: by it a log at level trace tells READs apart. */
  readonly id: number;
  readonly object: KernelObject;
  readonly extent: Extent;
  /** The door fills its file so: no reader shows what is wanted next. */
  readonly isOwn?: boolean;
  readonly answered: boolean;
  /** Every byte of the extent is in the cache file. */
  complete(): void;
  /** The reader gets EIO. */
  fail(error: DaemonError): void;
}

/** Implemented by flow. No method throws; what goes wrong is answered through the request. */
export interface KernelHandler {
  open(request: OpenRequest): void;
  read(request: ReadRequest): void;
  /** The kernel is done with the object; its `write` and `dataExtents` reject from now on. */
  closed(object: KernelObject): void;
}

export interface KernelDoor {
  /** Starts delivering requests. `onFatal` is called once when the door itself fails. */
  start(handler: KernelHandler, onFatal: (error: DaemonError) => void): void;
  /** Refuses what is unanswered, then closes the device. Requests are no longer delivered. */
  stop(error: DaemonError): Promise<void>;
  /** Takes no further requests: they are for the daemon that follows. What was taken is answered still. */
  pause(): void;
  /**
   * Lets go of everything without an answer: whoever waits is served by the daemon that follows,
   * who gets the same fds from the keeper.
   */
  handOver(error: DaemonError): Promise<void>;
}
