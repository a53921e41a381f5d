// SPDX-License-Identifier: Apache-2.0
// What the nydusd adapter asks of the daemon: the contract between the two. The adapter knows
// nydusd's words (command line, HTTP bodies, supervisor, states), the service knows the rooms.

import type { Digest } from "../units.ts";

/** How to reach a registry's repository; newest wins for one host and repository. Holds secrets. */
export interface RegistryAccess {
  readonly scheme: "http" | "https";
  readonly credentials?:
    | { readonly username: string; readonly password: string }
    | { readonly bearer: string }
    | undefined;
  readonly skipVerify: boolean;
  readonly caFiles: readonly string[];
  readonly connectTimeoutMs: number | undefined;
  /** Until the first byte of an answer, and between two bytes of a body. */
  readonly timeoutMs: number | undefined;
  readonly blobUrlScheme?: string | undefined;
  readonly blobRedirectedHost?: string | undefined;
  readonly proxy?:
    | {
        readonly url: string;
        readonly pingUrl: string | undefined;
        readonly fallback: boolean;
        readonly checkIntervalMs: number;
        readonly useHttp: boolean;
      }
    | undefined;
}

export type Backend =
  | {
      readonly kind: "registry";
      readonly host: string;
      readonly repository: string;
      readonly access: RegistryAccess;
    }
  | { readonly kind: "directory"; readonly directory: string }
  | { readonly kind: "file"; readonly blobFile: string };

export interface PrefetchOptions {
  readonly enabled: boolean;
  /** Whole blobs after the bootstrap's prefetch table. */
  readonly all: boolean;
  /** Bytes a second; 0 is without limit. */
  readonly bandwidthRate: number;
}

export interface ImageBind {
  /** The cookie key of the bootstrap: what `mount -o fsid=` says. */
  readonly fsid: string;
  /** The domain_id of the mount; the fsid itself when the snapshotter has no shared domain. */
  readonly domainId: string;
  readonly bootstrapPath: string;
  /** Where `<blob id>.blob.meta` files may lie, in order. */
  readonly blobMetaDirectories: readonly string[];
  readonly backend: Backend;
  readonly prefetch: PrefetchOptions;
}

/** True numbers of one bound image since this daemon serves it. */
export interface ImageCounters {
  /** Data devices in the bootstrap's order, also those nobody has opened yet. */
  readonly blobs: readonly Digest[];
  /** READs of its data devices that the kernel asked for, and bytes fetched for them. */
  readonly reads: number;
  readonly readBytes: number;
  readonly failedReads: number;
  readonly fetchedBytes: number;
  readonly cachedBytes: number;
  readonly totalBytes: number;
  readonly cachedChunks: number;
  readonly complete: boolean;
  readonly prefetch: {
    readonly requests: number;
    readonly bytes: number;
    readonly workers: number;
    /** Unix time, as is the end's. */
    readonly beganAtMs: number | undefined;
    readonly endedAtMs: number | undefined;
  };
}

/** One READ that the kernel waits for. */
export interface InflightRead {
  readonly fsidOrBlob: string;
  readonly offset: number;
  readonly length: number;
  readonly sinceMs: number;
}

/** The rooms behind the adapter. Every promise rejects with a DaemonError. */
export interface BlobService {
  /** Opens /dev/cachefiles and binds the cache to it. Faults: device_*, door_unsupported, cache_dir_unsuitable. */
  openDevice(): Promise<void>;
  /** Takes a device over that another daemon bound; `start` then has the kernel say everything again. */
  adoptDevice(fd: number): Promise<void>;
  /** The device, to be sent to a supervisor; undefined before openDevice or adoptDevice. */
  readonly deviceFd: number | undefined;
  /** Begins to take kernel requests. `onFatal` is called once when the device itself fails. */
  start(onFatal: (error: Error) => void): void;
  /** Takes no new kernel requests; resolves when those taken are answered. The device stays open. */
  quiesce(): Promise<void>;
  /** Fails what waits, closes everything. */
  stop(): Promise<void>;

  /** Makes an image mountable; binding a known fsid again replaces its backend and options. */
  bind(image: ImageBind): Promise<void>;
  /** Forgets images of a domain, or one of them. What is mounted is served on. Returns how many were known. */
  unbind(name: { domainId: string; fsid?: string }): Promise<number>;
  /** Deletes the cache file of a bootstrap or a data blob (its 64 hex digits). */
  cull(key: string): Promise<"culled" | "absent" | "in use">;
  /** New credentials for every image bound with this fsid's backend. False: no such fsid. */
  renew(fsid: string, credentials: { username: string; password: string }): boolean;
  counters(fsid: string): ImageCounters | undefined;
  /** Fsids of all bound images. */
  readonly bound: readonly string[];
  readonly inflight: readonly InflightRead[];
  /** Objects the kernel has open; after adoptDevice also those that it has not opened again yet. */
  readonly openObjects: number;
  /** Called with openObjects when it has changed: at once for what this daemon opened itself. */
  onObjects(listener: (count: number) => void): void;
}
