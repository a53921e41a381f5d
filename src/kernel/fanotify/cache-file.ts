// SPDX-License-Identifier: Apache-2.0
// The cache file of one stream: sparse, of the stream's size in whole blocks, and a record beside
// it of what may be trusted. What counts as cached is in the record AND in the file's extents.
// A file that is not surely the one the record is about is deleted and begun anew.
//
// Its fd is opened before the file is marked, so working with it asks nobody (the kernel decides
// at open(2) whether a file's accesses raise events). All of this runs off the event loop.

import { fdatasync, fstat, read } from "node:fs";
import { rm, utimes } from "node:fs/promises";
import { basename } from "node:path";
import { promisify } from "node:util";
import { BlockSet } from "../../cache/block-set.ts";
import { DaemonError } from "../../errors.ts";
import { errnoNameOf } from "../../platform/errno-name.ts";
import { OwnedFd } from "../../platform/owned-fd.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../../units.ts";
import { type KeyName, RECORD_SUFFIX } from "./names.ts";
import { type RecordHeader, saveRecord } from "./record.ts";
import {
  type CacheFileParts,
  type OpenedFile,
  createFile,
  openMounted,
  openTrusted,
} from "./stored-file.ts";

/** What is written is recorded within this time; a crash costs at most so much of it. */
const RECORD_EVERY_MS = 5000;

const statFd = promisify(fstat);
const readFd = promisify(read);
const syncFd = promisify(fdatasync);

export class CacheFile {
  /** Tells files apart: device and inode number. */
  readonly id: string;
  readonly fd: OwnedFd;
  readonly #parts: CacheFileParts;
  readonly #header: RecordHeader;
  readonly #blocks: BlockSet;
  /** Blocks were written that the record on disk lacks, or it says that nobody writes. */
  #isRecorded: boolean;
  #isMarkedInUse = false;
  #isDistrusted = false;
  #isGivenUp = false;
  #cancelTimer: (() => void) | undefined;
  readonly #letGo: () => void;
  readonly #writing = new Set<Promise<void>>();
  #saving: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  private constructor(
    parts: CacheFileParts,
    of: { fd: number; id: string; header: RecordHeader; blocks: BlockSet; isRecorded: boolean },
    letGo: () => void,
  ) {
    this.#parts = parts;
    this.#letGo = letGo;
    this.id = of.id;
    this.fd = new OwnedFd(of.fd, parts.native);
    this.#header = of.header;
    this.#blocks = of.blocks;
    this.#isRecorded = of.isRecorded;
  }

  /** Faults: cache_write_failed, cache_no_space. */
  static async open(parts: CacheFileParts): Promise<CacheFile> {
    const letGo = await parts.room.keep(basename(parts.path));
    try {
      const opened = (await openTrusted(parts)) ?? (await createWithRoom(parts));
      await noteUse(parts.path);
      return new CacheFile(parts, opened, letGo);
    } catch (error) {
      letGo();
      throw explain(error, parts.key);
    }
  }

  /** One that is mounted, and stays whatever of it is trusted. It owns `fd`. Faults: as open. */
  static async adopt(parts: CacheFileParts, fd: number): Promise<CacheFile> {
    const letGo = await parts.room.keep(basename(parts.path));
    try {
      return new CacheFile(parts, await openMounted(parts, fd), letGo);
    } catch (error) {
      letGo();
      parts.native.close(fd);
      throw explain(error, parts.key);
    }
  }

  /** The extents that hold data, in order. */
  get extents(): Extent[] {
    return this.#blocks.present({ offset: 0, length: this.fileBytes });
  }

  /** Of the file: whole blocks. */
  get fileBytes(): number {
    return alignUp(this.#parts.sizeBytes, BLOCK_BYTES);
  }

  covers(extent: Extent): boolean {
    return this.#blocks.covers(extent);
  }

  /** Whole blocks within the file; cached when it resolves. Faults: cache_no_space, cache_write_failed, cancelled. */
  async write(
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void> {
    const { room, key } = this.#parts;
    const writing = this.#write(bytes, range);
    this.#writing.add(writing);
    try {
      await writing;
    } catch (error) {
      throw explain(error, key);
    } finally {
      this.#writing.delete(writing);
    }
    room.used();
    this.#blocks.add({ offset: range.fileOffset, length: range.length });
    this.#isRecorded = false;
    this.#recordSoon();
  }

  #write(
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void> {
    const { room, key, native } = this.#parts;
    return this.fd.borrow(async (fd) => {
      for (;;) {
        try {
          await room.check(key.cookieKey);
          await withRoom(this.#parts, () => native.pwriteAligned(fd, bytes, range));
          room.hadRoom();
          return;
        } catch (error) {
          // A disk that is full for less than a read's time costs time alone.
          const mayWait = isFull(error) && this.#closing === undefined;
          if (!mayWait || !(await room.untilLater())) throw error;
        }
      }
    });
  }

  /** What the file holds; fewer bytes at its end. Bytes that are not cached are zeros. */
  async read({ offset, length }: Extent): Promise<Uint8Array> {
    const bytes = new Uint8Array(Math.max(0, Math.min(length, this.fileBytes - offset)));
    await this.fd.borrow(async (fd) => {
      for (let at = 0; at < bytes.length; ) {
        const { bytesRead } = await readFd(fd, bytes, at, bytes.length - at, offset + at);
        if (bytesRead === 0) throw new Error(`${this.#parts.path} was cut at byte ${offset + at}`);
        at += bytesRead;
      }
    });
    return bytes;
  }

  /** What it holds is wrong: it is deleted when it is closed, and nothing of it trusted after a crash. */
  async distrust(): Promise<void> {
    this.#isDistrusted = true;
    await Promise.allSettled([this.#saving, this.#closing]);
    await rm(`${this.#parts.path}${RECORD_SUFFIX}`, { force: true });
  }

  /** Somebody else goes on with it: what is not recorded by now is left as it is on disk. */
  giveUpRecord(): void {
    this.#isGivenUp = true;
  }

  /** Records what it holds and closes it, when the last write on it has ended. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#cancelTimer?.();
    // What is recorded of a closed file is its last change.
    await Promise.allSettled([this.#saving, ...this.#writing]);
    try {
      if (this.#isDistrusted) await rm(this.#parts.path, { force: true });
      else if (!this.#isRecorded || this.#isMarkedInUse) await this.#save("closed");
    } catch (error) {
      this.#warn(error);
    }
    await noteUse(this.#parts.path);
    await this.fd.close();
    this.#letGo();
  }

  #recordSoon(): void {
    if (this.#cancelTimer !== undefined || this.#closing !== undefined) return;
    if (this.#isDistrusted) return;
    // A record of a file that nobody writes must not stay while somebody does.
    const delayMs = this.#isMarkedInUse ? RECORD_EVERY_MS : 0;
    this.#isMarkedInUse = true;
    this.#cancelTimer = this.#parts.clock.after(delayMs, () => {
      this.#saving = this.#save("in use")
        .catch((error: unknown) => {
          this.#warn(error);
        })
        .finally(() => {
          this.#saving = undefined;
          this.#cancelTimer = undefined;
          if (!this.#isRecorded) this.#recordSoon();
        });
    });
  }

  async #save(state: "in use" | "closed"): Promise<void> {
    const { path, sizeBytes, room } = this.#parts;
    await this.fd.borrow((fd) =>
      room.record(async () => {
        if (this.#isDistrusted || this.#isGivenUp) return;
        // Taken before the sync: what is written during it may not be on disk after it.
        const blocks = BlockSet.deserialize(sizeBytes, this.#blocks.serialize());
        this.#isRecorded = true;
        try {
          await syncFd(fd);
          if (this.#isGivenUp) return;
          const { mtimeNs } = await statFd(fd, { bigint: true });
          const writtenNs = state === "closed" ? { writtenNs: String(mtimeNs) } : {};
          const header = { ...this.#header, ...writtenNs };
          await saveRecord(`${path}${RECORD_SUFFIX}`, header, blocks ?? this.#blocks);
        } catch (error) {
          this.#isRecorded = false;
          throw error;
        }
      }),
    );
  }

  #warn(error: unknown): void {
    const { cookieKey } = this.#parts.key;
    this.#parts.log.warn({ key: cookieKey, err: error }, "what is cached cannot be recorded");
  }
}

/** Who has been used for longest is told by the times of records. */
async function noteUse(path: string): Promise<void> {
  const nowSeconds = Date.now() / 1000;
  // There is none of a file that is new.
  await utimes(`${path}${RECORD_SUFFIX}`, nowSeconds, nowSeconds).catch(() => undefined);
}

function createWithRoom(parts: CacheFileParts): Promise<OpenedFile> {
  return withRoom(parts, () => createFile(parts));
}

/** Once more when there was no room and others have made some. */
async function withRoom<T>({ room }: CacheFileParts, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isFull(error) || !(await room.makeRoom())) throw error;
    return await work();
  }
}

function isFull(error: unknown): boolean {
  if (error instanceof DaemonError && error.fault.code === "cache_no_space") return true;
  return /\b(ENOSPC|EDQUOT)\b/.test(errnoNameOf(error) ?? "");
}

function explain(error: unknown, { cookieKey }: KeyName): DaemonError {
  if (error instanceof DaemonError && error.fault.code !== "syscall_failed") return error;
  const detail = error instanceof Error ? error.message : String(error);
  const code = isFull(error) ? "cache_no_space" : "cache_write_failed";
  return new DaemonError({ code, key: cookieKey, detail }, { cause: error });
}
