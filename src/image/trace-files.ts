// SPDX-License-Identifier: Apache-2.0
// Which files of an image a trace is about: each read's bytes go to the file that lies there. Pure.

import { type Extent, extentEnd } from "../units.ts";
import type { Trace } from "./trace-format.ts";

/** What lies nowhere in a file's own blocks: inodes, directories, and small ends of files. */
export const NO_FILE = "(metadata and the like)";

export interface FileShare {
  readonly path: string;
  readonly reads: number;
  /** Distinct ones, in whole blocks. */
  readonly bytes: number;
  /** When it was first read. */
  readonly firstMs: number;
}

interface Part extends Extent {
  readonly path: string;
}

/** Finds the files that lie in an extent of a stream. */
export class FileIndex {
  readonly #parts = new Map<number, Part[]>();

  /** Parts may come in any order, before the first search. */
  constructor(files: Trace["files"]) {
    for (const { file: path, parts } of files) {
      for (const [stream, offset, length] of parts) {
        const known = this.#parts.get(stream) ?? [];
        known.push({ path, offset, length });
        this.#parts.set(stream, known);
      }
    }
    for (const parts of this.#parts.values()) parts.sort((a, b) => a.offset - b.offset);
  }

  /** What lies in `extent`, in order, and what of it belongs to no file. */
  *within(stream: number, extent: Extent): Generator<Part, void> {
    const parts = this.#parts.get(stream) ?? [];
    let at = extent.offset;
    const end = extentEnd(extent);
    for (let n = firstEndingBehind(parts, at); n < parts.length && at < end; n += 1) {
      const part = parts[n];
      if (part === undefined || part.offset >= end) break;
      const offset = Math.max(part.offset, at);
      const partEnd = Math.min(extentEnd(part), end);
      if (partEnd <= offset) continue;
      if (offset > at) yield { path: NO_FILE, offset: at, length: offset - at };
      yield { path: part.path, offset, length: partEnd - offset };
      at = partEnd;
    }
    if (at < end) yield { path: NO_FILE, offset: at, length: end - at };
  }
}

/** In the order in which they were first read. */
export function fileShares(trace: Pick<Trace, "reads" | "files">): FileShare[] {
  const index = new FileIndex(trace.files);
  const shares = new Map<string, { reads: number; bytes: number; firstMs: number }>();
  const seen = new SeenBytes();
  for (const { ms, stream, offset, length } of trace.reads) {
    for (const part of index.within(stream, { offset, length })) {
      const share = shares.get(part.path) ?? { reads: 0, bytes: 0, firstMs: ms };
      share.reads += 1;
      share.bytes += seen.add(stream, part);
      shares.set(part.path, share);
    }
  }
  return [...shares].map(([path, share]) => ({ path, ...share }));
}

/** Distinct bytes that were read. */
export function distinctBytes(reads: Trace["reads"]): number {
  const seen = new SeenBytes();
  return reads.reduce((sum, { stream, ...extent }) => sum + seen.add(stream, extent), 0);
}

const BLOCK_BYTES = 4096;

/** Blocks that have been counted, for each stream. */
class SeenBytes {
  readonly #blocks = new Map<number, Set<number>>();

  /** How many bytes of it are new. */
  add(stream: number, { offset, length }: Extent): number {
    const blocks = this.#blocks.get(stream) ?? new Set<number>();
    this.#blocks.set(stream, blocks);
    const before = blocks.size;
    const end = Math.ceil((offset + length) / BLOCK_BYTES);
    for (let block = Math.floor(offset / BLOCK_BYTES); block < end; block += 1) blocks.add(block);
    return (blocks.size - before) * BLOCK_BYTES;
  }
}

/** Parts are sorted, and hardly overlap: dedupe aside, a block belongs to one file. */
function firstEndingBehind(parts: readonly Part[], offset: number): number {
  let [low, high] = [0, parts.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const part = parts[middle];
    if (part !== undefined && extentEnd(part) <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What was read, merged: whether a file was among it. */
export class TouchedExtents {
  readonly #extents = new Map<number, Part[]>();

  constructor(reads: Trace["reads"]) {
    const sorted = reads.toSorted((a, b) => a.offset - b.offset);
    for (const { stream, offset, length } of sorted) {
      const known = this.#extents.get(stream) ?? [];
      this.#extents.set(stream, known);
      const before = known.at(-1);
      if (before === undefined || extentEnd(before) < offset) {
        known.push({ path: "", offset, length });
      } else {
        const end = Math.max(extentEnd(before), offset + length);
        known[known.length - 1] = { ...before, length: end - before.offset };
      }
    }
  }

  touches(stream: number, extent: Extent): boolean {
    const extents = this.#extents.get(stream) ?? [];
    const next = extents[firstEndingBehind(extents, extent.offset)];
    return next !== undefined && next.offset < extentEnd(extent);
  }
}
