// SPDX-License-Identifier: Apache-2.0
// A row of a chunk table beside what a chunk map says of the same chunk: where they differ, and
// how the row's digest becomes the map's.

import {
  CHUNK_COMPRESSED,
  CHUNK_TRUSTED,
  type CheckedColumns,
  type ChunkColumns,
  NO_UNIT,
  sizeOf,
} from "./chunk-columns.ts";
import {
  DIGEST_WORDS,
  ROW_COMPRESSED,
  ROW_DEVICE_BLOCK,
  ROW_FLAGS,
  ROW_SIZE,
  ROW_STORED_BYTES,
  ROW_STORED_HIGH,
  ROW_STORED_LOW,
} from "./chunk-table.ts";

export interface RowAndChunk {
  readonly words: Uint32Array;
  /** Where the row begins in `words`. */
  readonly at: number;
  /** The chunk's index. */
  readonly index: number;
}

/** The field about which they differ; undefined when they agree. Digests are not looked at. */
export function contradictionOf(
  { chunks, joining }: CheckedColumns,
  { words, at, index }: RowAndChunk,
): string | undefined {
  if (words[at + ROW_DEVICE_BLOCK] !== chunks.deviceBlock[index]) return "device offset";
  if (words[at + ROW_SIZE] !== sizeOf(chunks, index)) return "size";
  const storedOffset =
    (words[at + ROW_STORED_HIGH] ?? 0) * 2 ** 32 + (words[at + ROW_STORED_LOW] ?? 0);
  const storedBytes = words[at + ROW_STORED_BYTES] ?? 0;
  const isBatched = joining === "batch" && chunks.unit[index] !== NO_UNIT;
  // The row of a batch's member does not say where it is stored, nor rightly how.
  if (isBatched && storedOffset === 0 && storedBytes === 0) return undefined;
  if (storedOffset !== chunks.storedOffset[index]) return "stored offset";
  if (storedBytes !== chunks.storedBytes[index]) return "stored size";
  const isCompressed = ((chunks.sizeAndFlags[index] ?? 0) & CHUNK_COMPRESSED) !== 0;
  const saysCompressed = ((words[at + ROW_FLAGS] ?? 0) & ROW_COMPRESSED) !== 0;
  return isCompressed === saysCompressed ? undefined : "compression";
}

/** True when the map has the digest already, or none. */
export function agreesOnDigest(
  { sizeAndFlags }: ChunkColumns,
  digestWords: Uint32Array,
  { words, at, index }: RowAndChunk,
): boolean {
  if (((sizeAndFlags[index] ?? 0) & CHUNK_TRUSTED) === 0) return true;
  for (let word = 0; word < DIGEST_WORDS; word += 1) {
    const own = digestWords[index * DIGEST_WORDS + word];
    if (own !== words[at + word]) return false;
  }
  return true;
}

export function takeDigest(
  { sizeAndFlags }: ChunkColumns,
  digestWords: Uint32Array,
  { words, at, index }: RowAndChunk,
): void {
  for (let word = 0; word < DIGEST_WORDS; word += 1) {
    digestWords[index * DIGEST_WORDS + word] = words[at + word] ?? 0;
  }
  sizeAndFlags[index] = (sizeAndFlags[index] ?? 0) | CHUNK_TRUSTED;
}
