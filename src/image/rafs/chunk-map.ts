// SPDX-License-Identifier: Apache-2.0
// The chunk map of a RAFS blob: which stored bytes decode to which bytes of the device, and the
// digest that proves each chunk. Only what a chunk table proves may be served; a blob also holds
// chunks that this image does not use, and of those nothing is known that can be trusted.
// Source: RAFS v6 as nydus 2.4 writes it; chunk-columns.ts says what has been checked.

import { invariant } from "../../errors.ts";
import { BLOCK_BYTES, type Extent, MIB, extentEnd } from "../../units.ts";
import type { ChunkMap, CutLimits, Digester, Unit } from "../chunk-map.ts";
import { CHUNK_TRUSTED, type CheckedColumns, NO_UNIT, sizeOf, unitOf } from "./chunk-columns.ts";
import { columnsOf, piecesOf } from "./chunk-map-file.ts";
import type { BlobRows } from "./chunk-table.ts";
import { type Run, makeUnit, startOf, storedAt } from "./chunk-units.ts";
import { invalid } from "./fields.ts";
import { agreesOnDigest, contradictionOf, takeDigest } from "./row-check.ts";

/**
 * A unit may hold thousands of tiny files, each rounded up to a block. Past this many blocks of
 * logical bytes it is served in parts, so that a read of one file does not write 64 MiB.
 */
const PART_BLOCKS = (8 * MIB) / BLOCK_BYTES;

export class RafsChunkMap implements ChunkMap {
  readonly #of: CheckedColumns;
  readonly #digestWords: Uint32Array;

  /** `of` must have been checked; the map keeps and changes them. */
  constructor(of: CheckedColumns) {
    const { digest } = of.chunks;
    this.#of = of;
    this.#digestWords = new Uint32Array(digest.buffer, digest.byteOffset, digest.length / 4);
  }

  /** See chunk-map-file.ts. `bytes` is kept, and is changed by addRows. Fault: image_invalid. */
  static deserialize(bytes: Uint8Array, where: string): RafsChunkMap {
    return new RafsChunkMap(columnsOf(bytes, where));
  }

  /** The parts of a file that deserialize reads back: views, valid until addRows. */
  serialize(): Uint8Array[] {
    return piecesOf(this.#of);
  }

  get sizeBytes(): number {
    return this.#of.sizeBytes;
  }

  get digester(): Digester {
    return this.#of.digester;
  }

  get blobId(): string {
    return this.#of.blobId;
  }

  get chunkCount(): number {
    return this.#of.chunks.count;
  }

  /** What the map keeps in memory. */
  get memoryBytes(): number {
    return piecesOf(this.#of).reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  isTrusted(index: number): boolean {
    return ((this.#of.chunks.sizeAndFlags[index] ?? 0) & CHUNK_TRUSTED) !== 0;
  }

  /** Index of the chunk that has this byte of the device. */
  chunkAt(offset: number): number {
    const { deviceBlock } = this.#of.chunks;
    const block = Math.floor(offset / BLOCK_BYTES);
    let low = 0;
    let high = deviceBlock.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((deviceBlock[middle] ?? 0) <= block) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  widen({ offset, length }: Extent): Extent {
    const end = Math.min(offset + length, this.sizeBytes);
    const first = this.#runAt(this.chunkAt(offset)).first;
    const last = this.#runAt(this.chunkAt(Math.max(offset, end - 1))).end;
    return this.#extentOf({ first, end: last });
  }

  cut(extent: Extent, { logicalBytesMax, storedBytesMax }: CutLimits): Extent {
    if (extent.length === 0) return extent;
    const all = this.#chunksOf(extent);
    let end = all.first;
    let stored: Extent | undefined;
    while (end < all.end && this.isTrusted(end)) {
      const run = { first: end, end: Math.min(this.#runAt(end).end, all.end) };
      const more = storedAt(this.#of, run.first);
      const both = stored === undefined ? more : covering(stored, more);
      const logicalBytes = startOf(this.#of, run.end) - extent.offset;
      const isOver = logicalBytes > logicalBytesMax || both.length > storedBytesMax;
      if (isOver && end > all.first) break;
      end = run.end;
      stored = both;
      if (isOver) break;
    }
    return this.#extentOf({ first: all.first, end });
  }

  stored(extent: Extent): Extent {
    const all = this.#chunksOf(extent);
    if (all.first === all.end) return { offset: 0, length: 0 };
    let stored = storedAt(this.#of, all.first);
    for (let index = all.first + 1; index < all.end; index += 1) {
      stored = covering(stored, storedAt(this.#of, index));
    }
    return stored;
  }

  units(extent: Extent): readonly Unit[] {
    const all = this.#chunksOf(extent);
    const units: Unit[] = [];
    let first = all.first;
    while (first < all.end) {
      if (this.isTrusted(first)) {
        const end = this.#endOfUnit(first, all.end);
        units.push(makeUnit(this.#of, { first, end }));
        first = end;
      } else first += 1;
    }
    return units;
  }

  /** True when both cut the device into the same chunks. */
  sameLayout(other: RafsChunkMap): boolean {
    const [own, others] = [this.#of.chunks, other.#of.chunks];
    if (own.count !== others.count || this.sizeBytes !== other.sizeBytes) return false;
    for (let index = 0; index < own.count; index += 1) {
      if (own.deviceBlock[index] !== others.deviceBlock[index]) return false;
      if (sizeOf(own, index) !== sizeOf(others, index)) return false;
    }
    return true;
  }

  /**
   * What another image's chunk table says of the same blob must not contradict this map. Fault:
   * image_invalid, which names the first chunk that does.
   */
  checkRows(rows: BlobRows, where: string): void {
    const { chunks, blobId } = this.#of;
    rows.ciIndex.forEach((index, n) => {
      const one = { words: rows.words, at: rows.at[n] ?? 0, index };
      const agrees =
        index < chunks.count &&
        contradictionOf(this.#of, one) === undefined &&
        agreesOnDigest(chunks, this.#digestWords, one);
      if (agrees) return;
      const what = `its chunk ${index} of blob ${blobId}`;
      throw invalid(where, `${what} contradicts what a trusted image says of it`);
    });
  }

  /**
   * Chunks without a trusted digest get theirs from another image's chunk table; true when there
   * was one. Fault: that of checkRows, and then the map stays as it is.
   */
  addRows(rows: BlobRows, where: string): boolean {
    this.checkRows(rows, where);
    let hasNew = false;
    rows.ciIndex.forEach((index, n) => {
      if (this.isTrusted(index)) return;
      const one = { words: rows.words, at: rows.at[n] ?? 0, index };
      takeDigest(this.#of.chunks, this.#digestWords, one);
      hasNew = true;
    });
    return hasNew;
  }

  #extentOf({ first, end }: Run): Extent {
    const offset = startOf(this.#of, first);
    return { offset, length: startOf(this.#of, end) - offset };
  }

  /** `extent` is of whole chunks: what widen and cut gave, or a part of it between two chunks. */
  #chunksOf(extent: Extent): Run {
    if (extent.length === 0) return { first: 0, end: 0 };
    const first = this.chunkAt(extent.offset);
    const end = this.chunkAt(extentEnd(extent) - 1) + 1;
    invariant(
      startOf(this.#of, first) === extent.offset && startOf(this.#of, end) === extentEnd(extent),
      `bytes ${extent.offset} to ${extentEnd(extent)} of blob ${this.blobId} are not whole chunks`,
    );
    return { first, end };
  }

  /**
   * What is fetched with a chunk: of its unit the chunks around it that may be served too, within
   * one part. An ordinary chunk, and one that may not be served, is alone.
   */
  #runAt(index: number): Run {
    const unit = unitOf(this.#of.chunks, index);
    let [first, end] = [index, index + 1];
    if (unit === NO_UNIT || !this.isTrusted(index)) return { first, end };
    const part = this.#partOf(index, unit);
    const belongs = (at: number): boolean =>
      unitOf(this.#of.chunks, at) === unit && this.isTrusted(at) && this.#partOf(at, unit) === part;
    while (first > 0 && belongs(first - 1)) first -= 1;
    while (end < this.chunkCount && belongs(end)) end += 1;
    return { first, end };
  }

  #partOf(index: number, unit: number): number {
    const { chunks, units } = this.#of;
    const start = chunks.deviceBlock[units.firstChunk[unit] ?? 0] ?? 0;
    return Math.floor(((chunks.deviceBlock[index] ?? 0) - start) / PART_BLOCKS);
  }

  /** Chunks from `first` on that are decoded with it and may be served, in whatever parts. */
  #endOfUnit(first: number, limit: number): number {
    const unit = unitOf(this.#of.chunks, first);
    let end = first + 1;
    if (unit === NO_UNIT) return end;
    while (end < limit && unitOf(this.#of.chunks, end) === unit && this.isTrusted(end)) end += 1;
    return end;
  }
}

function covering(a: Extent, b: Extent): Extent {
  const offset = Math.min(a.offset, b.offset);
  return { offset, length: Math.max(extentEnd(a), extentEnd(b)) - offset };
}
