// SPDX-License-Identifier: Apache-2.0
// The cache file of an object that the kernel does not have open, filled by its name: what is there
// when the object is opened is used as if a reader had asked for it. It must be closed before copen.
// Written past the page cache, as the kernel writes: what the file has is on its way to the disk
// before its extents say so. Source: fs/cachefiles/namei.c (cachefiles_open_file), xattr.c;
// kernel-notes/cachefiles-disk-names.md, cachefiles-coherency.md.

import { close, constants, fstat, open } from "node:fs";
import { statfs } from "node:fs/promises";
import { promisify } from "node:util";
import { DaemonError } from "../../errors.ts";
import { errnoNameOf } from "../../platform/errno-name.ts";
import type { Native } from "../../platform/native.ts";
import { OwnedFd } from "../../platform/owned-fd.ts";
import { BLOCK_BYTES, type Extent, MIB, alignUp } from "../../units.ts";
import type { KernelObject } from "../transport.ts";

const EXTENTS_MAX = 1 << 16;
/** The kernel looks at every write; we at one in so many bytes. */
const LOOK_EVERY_BYTES = 32 * MIB;

const openFd = promisify(open);
const statFd = promisify(fstat);

export interface IdleFileParts {
  readonly native: Pick<Native, "close" | "pwriteAligned" | "dataExtents">;
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly path: string;
  /** Per cent of the filesystem's blocks, and of its inodes: nothing is written below. */
  readonly stopPercent: { readonly blocks: number; readonly inodes: number };
  readonly writes: { writes: number; writtenBytes: number };
}

export class IdleFile implements KernelObject {
  readonly seesHits = false;
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly #parts: IdleFileParts;
  readonly #fd: OwnedFd;
  #isClosed = false;
  #untilLook = 0;

  private constructor(parts: IdleFileParts, fd: number) {
    this.id = parts.id;
    this.volumeKey = parts.volumeKey;
    this.cookieKey = parts.cookieKey;
    this.#parts = parts;
    this.#fd = new OwnedFd(fd, parts.native);
  }

  /** Of a file that is there, with its attribute. Fault: cache_write_failed. */
  static async open(parts: IdleFileParts): Promise<IdleFile> {
    const { O_RDWR, O_DIRECT, O_NOFOLLOW } = constants;
    try {
      const fd = await openFd(parts.path, O_RDWR | O_DIRECT | O_NOFOLLOW);
      if ((await statFd(fd)).isFile()) return new IdleFile(parts, fd);
      await promisify(close)(fd);
      throw new Error("it is no file");
    } catch (error) {
      throw explain(error, parts.cookieKey);
    }
  }

  async write(
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void> {
    if (this.#isClosed) throw this.#cancelled();
    const { native, writes } = this.#parts;
    try {
      await this.#checkSpace(range.length);
      await this.#fd.borrow((fd) => native.pwriteAligned(fd, bytes, range));
      writes.writes += 1;
      writes.writtenBytes += range.length;
    } catch (error) {
      throw explain(error, this.cookieKey);
    }
  }

  async dataExtents(sizeBytes: number): Promise<Extent[]> {
    const end = alignUp(sizeBytes, BLOCK_BYTES);
    const extents: Extent[] = [];
    for (let from = 0; from < end; ) {
      const start = from;
      const found = await this.#fd.borrow((fd) =>
        this.#parts.native.dataExtents(fd, {
          from: start,
          sizeBytes: end,
          extentsMax: EXTENTS_MAX,
        }),
      );
      for (let at = 0; at + 1 < found.length; at += 2) {
        const offset = found[at] ?? 0;
        from = found[at + 1] ?? end;
        extents.push({ offset, length: from - offset });
      }
      if (found.length < 2 * EXTENTS_MAX) break;
    }
    return extents;
  }

  /** Settles when the last write has ended and the file is closed. */
  close(): Promise<void> {
    this.#isClosed = true;
    return this.#fd.close();
  }

  async #checkSpace(bytes: number): Promise<void> {
    this.#untilLook -= bytes;
    if (this.#untilLook > 0) return;
    this.#untilLook = LOOK_EVERY_BYTES;
    const { path, stopPercent } = this.#parts;
    const { blocks, bavail, files, ffree } = await statfs(path);
    const isLow =
      bavail * 100 < blocks * stopPercent.blocks || ffree * 100 < files * stopPercent.inodes;
    if (!isLow) return;
    this.#untilLook = 0;
    const detail = "free space is below bstop, or free inodes below fstop";
    throw new DaemonError({ code: "cache_no_space", key: this.cookieKey, detail });
  }

  #cancelled(): DaemonError {
    return new DaemonError({ code: "cancelled", what: `the cache file of "${this.cookieKey}"` });
  }
}

function explain(error: unknown, key: string): unknown {
  if (error instanceof DaemonError && error.fault.code !== "syscall_failed") return error;
  const detail = error instanceof Error ? error.message : String(error);
  const isFull = ["ENOSPC", "EDQUOT"].includes(errnoNameOf(error) ?? "");
  const code = isFull ? "cache_no_space" : "cache_write_failed";
  return new DaemonError({ code, key, detail }, { cause: error });
}
