// SPDX-License-Identifier: Apache-2.0
// One object the kernel has opened: its anonymous fd, and writes and seeks on it.
// The fd closes only after the last write under way has ended (a reused fd number would put
// bytes into a stranger's file), and it must close soon after CLOSE, because the next mount of
// the same key waits for that, unkillably. Source: fs/cachefiles/ondemand.c;
// kernel-notes/cachefiles-anonymous-fd.md.

import { type Clock, sleep } from "../../platform/clock.ts";
import { DaemonError } from "../../errors.ts";
import { OwnedFd } from "../../platform/owned-fd.ts";
import type { Native } from "../../platform/native.ts";
import { BLOCK_BYTES, alignUp, type Extent } from "../../units.ts";
import type { KernelObject } from "../transport.ts";

/** Between copen and the first READ the file does not exist yet: ENOBUFS for some milliseconds. */
const READY_TRIES_MAX = 200;
const READY_DELAY_MS_MAX = 20;
const EXTENTS_MAX = 1 << 16;
const SEEK_END = 2;

export interface CacheObjectParts {
  readonly native: Native;
  readonly clock: Clock;
  /** Counts what is written. */
  readonly writes: { writes: number; writtenBytes: number };
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly anonFd: number;
}

export class CacheObject implements KernelObject {
  readonly seesHits = false;
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly #native: Native;
  readonly #clock: Clock;
  readonly #writes: { writes: number; writtenBytes: number };
  readonly #fd: OwnedFd;
  readonly #closed = new AbortController();
  #ready = false;

  constructor(parts: CacheObjectParts) {
    this.id = parts.id;
    this.volumeKey = parts.volumeKey;
    this.cookieKey = parts.cookieKey;
    this.#native = parts.native;
    this.#clock = parts.clock;
    this.#writes = parts.writes;
    this.#fd = new OwnedFd(parts.anonFd, parts.native);
  }

  get isClosed(): boolean {
    return this.#closed.signal.aborted;
  }

  /** The kernel has the file: what was retried as "not ready yet" is an error from now on. */
  markReady(): void {
    this.#ready = true;
  }

  async write(
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void> {
    try {
      await this.#whenReady((fd) => this.#native.pwriteAligned(fd, bytes, range));
      this.#writes.writes += 1;
      this.#writes.writtenBytes += range.length;
    } catch (error) {
      throw await this.#explain(error);
    }
  }

  async dataExtents(sizeBytes: number): Promise<Extent[]> {
    const end = alignUp(sizeBytes, BLOCK_BYTES);
    const extents: Extent[] = [];
    let from = 0;
    while (from < end) {
      const start = from;
      let found: Float64Array;
      try {
        found = await this.#whenReady((fd) =>
          this.#native.dataExtents(fd, { from: start, sizeBytes: end, extentsMax: EXTENTS_MAX }),
        );
      } catch (error) {
        throw await this.#explain(error);
      }
      for (let i = 0; i + 1 < found.length; i += 2) {
        const offset = found[i] ?? 0;
        from = found[i + 1] ?? end;
        extents.push({ offset, length: from - offset });
      }
      if (found.length < 2 * EXTENTS_MAX) break;
    }
    return extents;
  }

  /** Tells the kernel that the READ is done, with or without data. EINVAL: the reader was killed. */
  readComplete(msgId: number): void {
    if (this.isClosed) return;
    try {
      this.#native.readComplete(this.#fd.number, msgId);
    } catch (error) {
      if (error instanceof DaemonError && errnoOf(error) === "EINVAL") return;
      throw error;
    }
  }

  /** Stops accepting work and closes the fd when the last job on it has ended. */
  close(): Promise<void> {
    if (!this.isClosed) this.#closed.abort(this.#cancelled());
    return this.#fd.close();
  }

  async #whenReady<T>(job: (fd: number) => Promise<T>): Promise<T> {
    for (let tryNumber = 1; ; tryNumber += 1) {
      if (this.isClosed) throw this.#cancelled();
      // As it was when the job began: a READ may come while the job's ENOBUFS is on its way to us.
      const wasReady = this.#ready;
      try {
        const result = await this.#fd.borrow(job);
        this.#ready = true;
        return result;
      } catch (error) {
        const early = error instanceof DaemonError && errnoOf(error) === "ENOBUFS" && !wasReady;
        if (!early || tryNumber >= READY_TRIES_MAX) throw error;
        await sleep(this.#clock, Math.min(tryNumber, READY_DELAY_MS_MAX), this.#closed.signal);
      }
    }
  }

  /** ENOBUFS means closed or below `bstop`; SEEK_END, which needs no space, tells them apart. */
  async #explain(error: unknown): Promise<unknown> {
    if (this.isClosed) return this.#cancelled();
    if (!(error instanceof DaemonError) || error.fault.code !== "syscall_failed") return error;
    const key = this.cookieKey;
    const name = error.fault.errnoName;
    if (name === "ENOSPC" || name === "EDQUOT") {
      const detail = `${name} from the cache's filesystem`;
      return new DaemonError({ code: "cache_no_space", key, detail }, { cause: error });
    }
    if (name === "ENOBUFS" && (await this.#isAlive())) {
      const detail = "free space is below bstop, or free inodes below fstop";
      return new DaemonError({ code: "cache_no_space", key, detail }, { cause: error });
    }
    const detail = error.message;
    return new DaemonError({ code: "cache_write_failed", key, detail }, { cause: error });
  }

  async #isAlive(): Promise<boolean> {
    try {
      await this.#fd.borrow((fd) => this.#native.seek(fd, { offset: 0, whence: SEEK_END }));
      return true;
    } catch {
      return false;
    }
  }

  #cancelled(): DaemonError {
    return new DaemonError({ code: "cancelled", what: `the cache object "${this.cookieKey}"` });
  }
}

function errnoOf(error: DaemonError): string | undefined {
  return error.fault.code === "syscall_failed" ? error.fault.errnoName : undefined;
}
