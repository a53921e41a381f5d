// SPDX-License-Identifier: Apache-2.0
// Room for cache files, as cachefiles makes it (Documentation/filesystems/caching/cachefiles.rst,
// "Cache culling"): when the filesystem is short of it, or the cache larger than it may be, the
// files that nobody has used for longest are deleted. One that is open, here or in the kernel,
// stays whole.
//
//   enough -> below cull: files go until it is above run -> below stop: nothing new is cached

import { open, readdir, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { DaemonError } from "../../errors.ts";
import { type Clock, sleep } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import type { CullLimits } from "../cachefiles/setup.ts";
import { RECORD_SUFFIX, streamsDirectory } from "./names.ts";

/** While files are written it is looked at so often. */
const LOOK_EVERY_MS = 2000;
/** While nothing may be written, and somebody wants to. */
const LOOK_AGAIN_MS = 200;
/** Of a read's time: its writer gives up a little before it does, so that the cause is what is told. */
const PATIENCE = 0.9;
/** Of the size that is allowed, what is left when it was exceeded. */
const SIZE_LEFT = 0.95;
/** st_blocks counts in these (stat(2)). */
const STAT_BLOCK_BYTES = 512;

/** Blocks (b) and inodes (f) that are free, as cachefiles has it. */
export interface RoomLimits extends CullLimits {
  /** Bytes that the cache files may take together; undefined: what the filesystem has. */
  readonly size?: number | undefined;
}

export interface CacheRoomParts {
  readonly native: Pick<Native, "isOpenElsewhere">;
  readonly clock: Clock;
  readonly log: Log;
  readonly cacheDir: string;
  readonly limits: RoomLimits;
  /** How long whoever reads waits. */
  readonly readTimeoutMs: number;
}

export interface CachedFile {
  readonly path: string;
  readonly name: string;
  readonly bytes: number;
  readonly usedMs: number;
}

interface Free {
  readonly bytes: number;
  readonly bytesAll: number;
  readonly inodes: number;
  /** 0 where the filesystem makes inodes as they are needed. */
  readonly inodesAll: number;
  /** Of all cache files; 0 when nobody wants to know. */
  readonly usedBytes: number;
}

type Level = "run" | "cull" | "stop";

export class CacheRoom {
  readonly #parts: CacheRoomParts;
  readonly #directory: string;
  /** Names of files that are open here, or about to be, and how often. */
  readonly #kept = new Map<string, number>();
  /** What is being deleted. */
  readonly #going = new Map<string, Promise<void>>();
  #isStopped = false;
  readonly #over = new AbortController();
  /** Until then whoever found no room waits. */
  #later: Promise<boolean> | undefined;
  /** Ends with the last record under way. */
  #saving: Promise<unknown> = Promise.resolve();
  /** When a write first and last found no room; undefined: the last one did. */
  #full: { readonly sinceMs: number; lastMs: number } | undefined;
  #looking: Promise<number> | undefined;
  #lookedMs = -Infinity;
  #cancelLook: (() => void) | undefined;

  constructor(parts: CacheRoomParts) {
    this.#parts = parts;
    this.#directory = streamsDirectory(parts.cacheDir);
  }

  /** From its resolution on the file of this name is not deleted, until the returned call. */
  async keep(name: string): Promise<() => void> {
    for (let going = this.#going.get(name); going !== undefined; going = this.#going.get(name)) {
      await going;
    }
    this.#kept.set(name, (this.#kept.get(name) ?? 0) + 1);
    this.used();
    let isKept = true;
    return () => {
      if (!isKept) return;
      isKept = false;
      // It may go now.
      this.used();
      const left = (this.#kept.get(name) ?? 1) - 1;
      if (left > 0) this.#kept.set(name, left);
      else this.#kept.delete(name);
    };
  }

  /** Resolves when something new may be cached under `key`. Fault: cache_no_space. */
  async check(key: string): Promise<void> {
    if (!this.#isStopped) return;
    if (this.#sinceLookMs >= LOOK_AGAIN_MS) await this.#look();
    if (!this.#isStopped) return;
    const { bstop, fstop } = this.#parts.limits;
    const detail = `less than ${bstop} % of the filesystem's blocks or ${fstop} % of its inodes are free, and what is cached is in use`;
    throw new DaemonError({ code: "cache_no_space", key, detail });
  }

  /** Something takes more room, or may be given up: it is looked at soon. */
  used(): void {
    if (this.#cancelLook !== undefined || this.#over.signal.aborted) return;
    const leftMs = LOOK_EVERY_MS - this.#sinceLookMs;
    if (leftMs <= 0) {
      void this.#look();
      return;
    }
    this.#cancelLook = this.#parts.clock.after(leftMs, () => {
      this.#cancelLook = undefined;
      void this.#look();
    });
  }

  /** Every cache file, with its record. */
  list(): Promise<CachedFile[]> {
    return this.#files();
  }

  /** False when it is in use. */
  async drop(file: CachedFile): Promise<boolean> {
    const isGone = await this.#delete(file);
    this.used();
    return isGone;
  }

  stop(): void {
    this.#over.abort();
    this.#cancelLook?.();
    this.#cancelLook = undefined;
  }

  /** A write found no room, whatever the filesystem says. True when it may be tried again. */
  async makeRoom(): Promise<boolean> {
    // One that began before may not have known.
    await this.#looking;
    return (await this.#look(true)) > 0;
  }

  /** `save`, one at a time: a sync may take seconds, and a thread that others wait for. */
  record(save: () => Promise<void>): Promise<void> {
    const saved = this.#saving.then(save);
    this.#saving = saved.catch(() => undefined);
    return saved;
  }

  /** A write found room. */
  hadRoom(): void {
    this.#full = undefined;
  }

  /**
   * There is no room, and none can be made: somebody else may make some. Resolves when it may be
   * tried again, with false when it has been so for as long as a read may wait. Never rejects.
   */
  async untilLater(): Promise<boolean> {
    const { clock, readTimeoutMs } = this.#parts;
    const patienceMs = PATIENCE * readTimeoutMs;
    const nowMs = clock.nowMs();
    if (this.#full === undefined || nowMs - this.#full.lastMs > patienceMs) {
      this.#full = { sinceMs: nowMs, lastMs: nowMs };
    }
    this.#full.lastMs = nowMs;
    if (nowMs - this.#full.sinceMs >= patienceMs) return false;
    this.#later ??= sleep(clock, LOOK_AGAIN_MS, this.#over.signal)
      .then(
        () => true,
        () => false,
      )
      .finally(() => {
        this.#later = undefined;
      });
    return this.#later;
  }

  get #sinceLookMs(): number {
    return this.#parts.clock.nowMs() - this.#lookedMs;
  }

  /** How many files were deleted. Never rejects. */
  #look(isFull = false): Promise<number> {
    if (this.#looking !== undefined) return this.#looking;
    this.#lookedMs = this.#parts.clock.nowMs();
    this.#looking = this.#cull(isFull)
      .catch((error: unknown) => {
        this.#parts.log.warn({ err: error }, "it cannot be seen how much room the cache has");
        return 0;
      })
      .finally(() => {
        this.#looking = undefined;
      });
    return this.#looking;
  }

  async #cull(isFull: boolean): Promise<number> {
    const { log, limits } = this.#parts;
    let free = await this.#free();
    let deleted = 0;
    const before = free;
    if (isFull || isShort(free, limits, "cull")) {
      const files = (await this.#files()).toSorted((a, b) => a.usedMs - b.usedMs);
      for (const file of files) {
        if (!isShort(free, limits, "run") && (!isFull || deleted > 0)) break;
        if (!(await this.#delete(file))) continue;
        deleted += 1;
        // Not asked again: a filesystem may free blocks a while after.
        const [bytes, usedBytes] = [free.bytes + file.bytes, free.usedBytes - file.bytes];
        free = { ...free, bytes, usedBytes, inodes: free.inodes + 2 };
      }
    }
    if (deleted > 0) {
      const bytes = free.bytes - before.bytes;
      log.info({ files: deleted, bytes }, "what was cached and not used for longest is deleted");
    }
    const isStopped = isShort(free, limits, "stop");
    if (isStopped && !this.#isStopped) {
      log.error(
        { dir: this.#directory, freeBytes: free.bytes },
        "the cache's filesystem is full, and what is cached is in use: what is not cached cannot be read",
      );
    }
    if (!isStopped && this.#isStopped) log.info({}, "there is room in the cache again");
    this.#isStopped = isStopped;
    return deleted;
  }

  async #free(): Promise<Free> {
    const { bsize, blocks, bavail, files, ffree } = await statfs(this.#directory);
    const used = this.#parts.limits.size === undefined ? [] : await this.#files();
    return {
      bytes: bavail * bsize,
      bytesAll: blocks * bsize,
      inodes: ffree,
      inodesAll: files,
      usedBytes: used.reduce((sum, { bytes }) => sum + bytes, 0),
    };
  }

  /** Of every cache file, with its record. */
  async #files(): Promise<CachedFile[]> {
    const found: CachedFile[] = [];
    for (const name of await readdir(this.#directory)) {
      if (name.includes(".")) continue;
      const path = join(this.#directory, name);
      const file = await stat(path).catch(() => undefined);
      if (file?.isFile() !== true) continue;
      const record = await stat(`${path}${RECORD_SUFFIX}`).catch(() => undefined);
      const blocks = file.blocks + (record?.blocks ?? 0);
      const usedMs = record?.mtimeMs ?? file.mtimeMs;
      found.push({ path, name, usedMs, bytes: blocks * STAT_BLOCK_BYTES });
    }
    return found;
  }

  /** False when it is in use. */
  async #delete({ name, path }: CachedFile): Promise<boolean> {
    if (this.#kept.has(name)) return false;
    let isGone: () => void = () => undefined;
    const going = new Promise<void>((resolve) => {
      isGone = resolve;
    });
    this.#going.set(name, going);
    try {
      if (await this.#isOpenElsewhere(path)) return false;
      // The record first: without it the file is not trusted.
      await rm(`${path}${RECORD_SUFFIX}`, { force: true });
      await rm(path, { force: true });
      return true;
    } finally {
      this.#going.delete(name);
      isGone();
    }
  }

  /** A mount that a daemon before us has left. */
  async #isOpenElsewhere(path: string): Promise<boolean> {
    const file = await open(path, "r");
    try {
      return this.#parts.native.isOpenElsewhere(file.fd);
    } finally {
      await file.close();
    }
  }
}

function isShort(free: Free, limits: RoomLimits, level: Level): boolean {
  const { size } = limits;
  const isLarge = size !== undefined && free.usedBytes > size * (level === "run" ? SIZE_LEFT : 1);
  const hasFewBlocks = free.bytes * 100 < limits[`b${level}`] * free.bytesAll;
  const hasFewInodes = free.inodes * 100 < limits[`f${level}`] * free.inodesAll;
  return hasFewBlocks || hasFewInodes || (isLarge && level !== "stop");
}
