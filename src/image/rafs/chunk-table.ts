// SPDX-License-Identifier: Apache-2.0
// The chunk table of a RAFS v6 bootstrap: 80 bytes for each chunk that the merged tree refers to,
// in the order of digests. It is the only place that proves data: the manifest's digest covers
// it. A table of a large image has tens of megabytes, so rows are taken as they arrive.
// Source: nydus 2.4, rafs/src/metadata/layout/v5.rs, RafsV5ChunkInfo (used by v6 as it is).

import { BLOCK_BYTES } from "../../units.ts";
import type { RafsBlob } from "./blob-table.ts";
import { CHUNK_ROW_BYTES, type RafsBootstrap } from "./bootstrap.ts";
import { asHex, invalid, unsupported, viewOf } from "./fields.ts";
import { radixSort } from "./radix-sort.ts";

export const DIGEST_BYTES = 32;
export const DIGEST_WORDS = DIGEST_BYTES / 4;

export const ROW_COMPRESSED = 0x1;
const ROW_ENCRYPTED = 0x4;
const ROW_BATCH = 0x8;
const ROW_CRC = 0x10;
const KNOWN_ROW_FLAGS = ROW_COMPRESSED | ROW_BATCH | ROW_CRC;

const INDEX_BITS = 24;
const INDEX_MASK = 0xffffff;
/** Words are copied as they lie in memory, on either kind of machine. */
const HOST_IS_LITTLE = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/**
 * Words of a row: its digest's 32 bytes as they lie in memory, then these. They are kept together
 * because rows are used in another order than they come: a row should cost one cache miss.
 */
export const ROW_WORDS = 14;
export const ROW_DEVICE_BLOCK = 8;
export const ROW_SIZE = 9;
export const ROW_FLAGS = 10;
/** 0 for a member of a batch, whose row does not say where it lies; so is ROW_STORED_BYTES. */
export const ROW_STORED_LOW = 11;
export const ROW_STORED_HIGH = 12;
export const ROW_STORED_BYTES = 13;

/** The rows of one blob, in the order of its chunks. Keeps the rows of all blobs in memory. */
export interface BlobRows {
  /** Ascending, each once. */
  readonly ciIndex: Uint32Array;
  /** Where the row of ciIndex[n] begins in `words`. */
  readonly at: Uint32Array;
  readonly words: Uint32Array;
}

/** Takes the chunk table in pieces of any size. Faults: image_invalid, image_unsupported. */
export class ChunkTableReader {
  readonly #blobs: readonly RafsBlob[];
  readonly #where: string;
  readonly #rowCount: number;
  readonly #words: Uint32Array;
  /** Blob and chunk index of each row in one number, to sort by. */
  readonly #keys: Uint32Array;
  readonly #cutRow = new Uint8Array(CHUNK_ROW_BYTES);
  #cutBytes = 0;
  #rows = 0;

  constructor(bootstrap: RafsBootstrap, blobs: readonly RafsBlob[], where: string) {
    const count = bootstrap.chunkTable.length / CHUNK_ROW_BYTES;
    this.#blobs = blobs;
    this.#where = where;
    this.#rowCount = count;
    this.#keys = new Uint32Array(count);
    this.#words = new Uint32Array(count * ROW_WORDS);
  }

  push(bytes: Uint8Array): void {
    let rest = bytes;
    if (this.#cutBytes > 0) {
      const missing = rest.subarray(0, CHUNK_ROW_BYTES - this.#cutBytes);
      this.#cutRow.set(missing, this.#cutBytes);
      this.#cutBytes += missing.length;
      rest = rest.subarray(missing.length);
      if (this.#cutBytes < CHUNK_ROW_BYTES) return;
      this.#takeRows(this.#cutRow, 1);
      this.#cutBytes = 0;
    }
    const whole = Math.floor(rest.length / CHUNK_ROW_BYTES);
    this.#takeRows(rest, whole);
    const cut = rest.subarray(whole * CHUNK_ROW_BYTES);
    this.#cutRow.set(cut);
    this.#cutBytes = cut.length;
  }

  /** The rows of each blob, in the blob table's order. */
  finish(): readonly BlobRows[] {
    if (this.#rows !== this.#rowCount || this.#cutBytes > 0) {
      throw invalid(this.#where, `its chunk table is cut: ${this.#rows} of ${this.#rowCount} rows`);
    }
    const { keys, order } = radixSort(this.#keys);
    const ends = this.#endOfEach(keys);
    for (let at = 0; at < keys.length; at += 1) {
      keys[at] = (keys[at] ?? 0) & INDEX_MASK;
      order[at] = (order[at] ?? 0) * ROW_WORDS;
    }
    return this.#blobs.map((_, index) => {
      const start = ends[index - 1] ?? 0;
      return {
        ciIndex: keys.subarray(start, ends[index]),
        at: order.subarray(start, ends[index]),
        words: this.#words,
      };
    });
  }

  /** Where the rows of each blob end; two rows of one chunk are a fault. */
  #endOfEach(keys: Uint32Array): readonly number[] {
    const ends = this.#blobs.map(() => 0);
    let previous = -1;
    for (let at = 0; at < keys.length; at += 1) {
      const key = keys[at] ?? 0;
      const blob = key >>> INDEX_BITS;
      if (key === previous) {
        const what = `chunk ${key & INDEX_MASK} of blob ${this.#blobs[blob]?.id}`;
        throw invalid(this.#where, `its chunk table has two rows for ${what}`);
      }
      previous = key;
      ends[blob] = at + 1;
    }
    let end = 0;
    return ends.map((own) => (end = Math.max(end, own)));
  }

  #takeRows(bytes: Uint8Array, count: number): void {
    if (count > this.#rowCount - this.#rows) {
      throw invalid(this.#where, `its chunk table has more than ${this.#rowCount} rows`);
    }
    const view = viewOf(bytes);
    for (let at = 0; at < count; at += 1) this.#takeRow(view, at * CHUNK_ROW_BYTES);
  }

  #takeRow(view: DataView, at: number): void {
    const row = this.#rows;
    const words = this.#words;
    const start = row * ROW_WORDS;
    for (let word = 0; word < DIGEST_WORDS; word += 1) {
      words[start + word] = view.getUint32(at + word * 4, HOST_IS_LITTLE);
    }
    const blobIndex = view.getUint32(at + 32, true);
    const flags = view.getUint32(at + 36, true);
    const storedBytes = view.getUint32(at + 40, true);
    const size = view.getUint32(at + 44, true);
    const deviceOffset = view.getUint32(at + 60, true) * 2 ** 32 + view.getUint32(at + 56, true);
    const ciIndex = view.getUint32(at + 72, true);
    const blob = this.#blobs[blobIndex];
    const isPlaced =
      blob !== undefined &&
      ciIndex < blob.chunkCount &&
      size > 0 &&
      size <= blob.chunkBytes &&
      deviceOffset % BLOCK_BYTES === 0 &&
      deviceOffset + size <= blob.sizeBytes &&
      (flags & ~KNOWN_ROW_FLAGS) === 0;
    if (!isPlaced) throw this.#refusal({ blobIndex, ciIndex, flags });
    this.#keys[row] = (blobIndex << INDEX_BITS) | ciIndex;
    words[start + ROW_DEVICE_BLOCK] = deviceOffset / BLOCK_BYTES;
    words[start + ROW_SIZE] = size;
    words[start + ROW_FLAGS] = flags;
    words[start + ROW_STORED_LOW] = view.getUint32(at + 48, true);
    words[start + ROW_STORED_HIGH] = view.getUint32(at + 52, true);
    words[start + ROW_STORED_BYTES] = storedBytes;
    this.#rows = row + 1;
  }

  #refusal(row: { blobIndex: number; ciIndex: number; flags: number }): Error {
    const what = `row ${this.#rows} of its chunk table (chunk ${row.ciIndex} of blob ${row.blobIndex})`;
    if ((row.flags & ROW_ENCRYPTED) !== 0) return unsupported(this.#where, `${what} is encrypted`);
    if ((row.flags & ~KNOWN_ROW_FLAGS) !== 0) {
      return unsupported(this.#where, `${what} has unknown flags: ${asHex(row.flags)}`);
    }
    return invalid(this.#where, `${what} is for no chunk that there can be`);
  }
}
