// SPDX-License-Identifier: Apache-2.0
// Which 4 KiB blocks of one cache file hold data: a bitmap, one bit a block.
// A 100 GiB stream needs 3 MiB of it. Extents given must lie on block boundaries.

import { invariant } from "../errors.ts";
import { BLOCK_BYTES, type Extent, extentEnd } from "../units.ts";

export class BlockSet {
  readonly #words: Uint32Array;
  readonly #blockCount: number;
  #cachedCount = 0;

  /** `sizeBytes`: logical size of the stream; its last block may be partial. */
  constructor(sizeBytes: number) {
    this.#blockCount = Math.ceil(sizeBytes / BLOCK_BYTES);
    this.#words = new Uint32Array(Math.ceil(this.#blockCount / 32));
  }

  /** Of the stream, in whole blocks. */
  get sizeBytes(): number {
    return this.#blockCount * BLOCK_BYTES;
  }

  /** The set as bytes, one bit a block, the lowest first; a copy. */
  serialize(): Uint8Array {
    return new Uint8Array(this.#words.slice().buffer);
  }

  /** What `serialize` gave for a stream of this size; undefined for bytes of another length. */
  static deserialize(sizeBytes: number, bytes: Uint8Array): BlockSet | undefined {
    const set = new BlockSet(sizeBytes);
    if (bytes.length !== set.#words.byteLength) return undefined;
    const words = new Uint32Array(Uint8Array.from(bytes).buffer);
    for (const [index, word] of words.entries()) {
      const left = set.#blockCount - index * 32;
      const kept = left >= 32 ? word : word & maskOf(0, left);
      set.#words[index] = kept;
      set.#cachedCount += popCount(kept);
    }
    return set;
  }

  get cachedBytes(): number {
    return this.#cachedCount * BLOCK_BYTES;
  }

  get isComplete(): boolean {
    return this.#cachedCount === this.#blockCount;
  }

  /** Marks the blocks of `extent` as cached; blocks past the end of the stream are ignored. */
  add(extent: Extent): void {
    const [first, end] = this.#blocks(extent);
    for (let block = first; block < end; ) {
      const word = block >>> 5;
      const wordEnd = Math.min(end, (word + 1) * 32);
      const mask = maskOf(block & 31, wordEnd - block);
      const before = this.#words[word] ?? 0;
      this.#cachedCount += popCount(mask & ~before);
      this.#words[word] = before | mask;
      block = wordEnd;
    }
  }

  /** How many bytes of this set's blocks `other`, a set for the same stream, has too. */
  commonBytes(other: BlockSet): number {
    let count = 0;
    for (const [index, word] of this.#words.entries()) {
      if (word !== 0) count += popCount(word & (other.#words[index] ?? 0));
    }
    return count * BLOCK_BYTES;
  }

  covers(extent: Extent): boolean {
    const [first, end] = this.#blocks(extent);
    return this.#next(first, end, false) === end;
  }

  /** The parts of `extent` that are cached, in order. */
  present(extent: Extent): Extent[] {
    return this.#runs(extent, true);
  }

  /** The parts of `extent` that are not cached, in order. */
  missing(extent: Extent): Extent[] {
    return this.#runs(extent, false);
  }

  #runs(extent: Extent, cached: boolean): Extent[] {
    const [first, end] = this.#blocks(extent);
    const found: Extent[] = [];
    for (let block = this.#next(first, end, cached); block < end; ) {
      const stop = this.#next(block, end, !cached);
      found.push({ offset: block * BLOCK_BYTES, length: (stop - block) * BLOCK_BYTES });
      block = this.#next(stop, end, cached);
    }
    return found;
  }

  /** The first block in [first, end) that is (or is not) cached; `end` when there is none. */
  #next(first: number, end: number, cached: boolean): number {
    for (let block = first; block < end; ) {
      const word = this.#words[block >>> 5] ?? 0;
      const wanted = (cached ? word : ~word) >>> (block & 31);
      if (wanted !== 0) {
        const found = block + (31 - Math.clz32(wanted & -wanted));
        return Math.min(found, end);
      }
      block = ((block >>> 5) + 1) * 32;
    }
    return end;
  }

  #blocks(extent: Extent): [number, number] {
    const aligned = extent.offset % BLOCK_BYTES === 0 && extent.length % BLOCK_BYTES === 0;
    invariant(aligned, `extent ${extent.offset}+${extent.length} is not whole blocks`);
    const end = Math.min(extentEnd(extent) / BLOCK_BYTES, this.#blockCount);
    return [Math.min(extent.offset / BLOCK_BYTES, end), end];
  }
}

function maskOf(firstBit: number, count: number): number {
  return count === 32 ? 0xffffffff : ((1 << count) - 1) << firstBit;
}

function popCount(word: number): number {
  let w = word - ((word >>> 1) & 0x55555555);
  w = (w & 0x33333333) + ((w >>> 2) & 0x33333333);
  return (((w + (w >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}
