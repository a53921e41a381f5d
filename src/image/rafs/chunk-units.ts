// SPDX-License-Identifier: Apache-2.0
// What chunk columns say of a chunk and of the unit it is decoded with.

import { invariant } from "../../errors.ts";
import { BLOCK_BYTES, type Extent } from "../../units.ts";
import type { Codec, InflateStart, Piece, Unit } from "../chunk-map.ts";
import {
  CHUNK_COMPRESSED,
  type CheckedColumns,
  NO_UNIT,
  type UnitColumns,
  sizeOf,
  unitOf,
} from "./chunk-columns.ts";
import { DIGEST_BYTES } from "./chunk-table.ts";

/** Chunks `first` to before `end`, by index. */
export interface Run {
  readonly first: number;
  readonly end: number;
}

/** Where a chunk begins on the device; that of the chunk after the last is the device's size. */
export function startOf({ chunks, sizeBytes }: CheckedColumns, index: number): number {
  return index < chunks.count ? (chunks.deviceBlock[index] ?? 0) * BLOCK_BYTES : sizeBytes;
}

/** The stored bytes of the chunk's unit. */
export function storedAt({ chunks, units }: CheckedColumns, index: number): Extent {
  const unit = unitOf(chunks, index);
  const [offset, length] =
    unit === NO_UNIT
      ? [chunks.storedOffset[index], chunks.storedBytes[index]]
      : [units.storedOffset[unit], units.storedBytes[unit]];
  return { offset: offset ?? 0, length: length ?? 0 };
}

/** The unit that all chunks of `run` are decoded with, with these as its pieces. */
export function makeUnit(of: CheckedColumns, { first, end }: Run): Unit {
  const { chunks, units, joining } = of;
  const stored = storedAt(of, first);
  const pieces = Array.from({ length: end - first }, (_, at) => pieceAt(of, first + at));
  const unit = unitOf(chunks, first);
  if (unit === NO_UNIT) {
    const isCompressed = ((chunks.sizeAndFlags[first] ?? 0) & CHUNK_COMPRESSED) !== 0;
    return {
      stored,
      codec: codecOf(of, isCompressed),
      decodedBytes: sizeOf(chunks, first),
      pieces,
    };
  }
  const decodedBytes = units.decodedBytes[unit] ?? 0;
  if (joining === "zran") {
    return { stored, codec: "inflate", decodedBytes, start: inflateStart(units, unit), pieces };
  }
  // What members say of compression is not true of a batch that did not get smaller.
  return { stored, codec: codecOf(of, stored.length !== decodedBytes), decodedBytes, pieces };
}

function pieceAt(of: CheckedColumns, index: number): Piece {
  const { chunks } = of;
  const at = index * DIGEST_BYTES;
  return {
    offset: startOf(of, index),
    from: unitOf(chunks, index) === NO_UNIT ? 0 : (chunks.from[index] ?? 0),
    length: sizeOf(chunks, index),
    digest: chunks.digest.subarray(at, at + DIGEST_BYTES),
  };
}

function inflateStart(units: UnitColumns, unit: number): InflateStart {
  const bytes = units.dictionaryBytes[unit] ?? 0;
  const offset = bytes === 0 ? 0 : (units.dictionaryOffset[unit] ?? 0);
  const prime = units.prime[unit] ?? 0;
  const dictionary = units.dictionaries.subarray(offset, offset + bytes);
  return { dictionary, bits: prime >>> 8, byte: prime & 0xff };
}

function codecOf({ codec }: CheckedColumns, isCompressed: boolean): Codec {
  if (!isCompressed) return "none";
  invariant(codec !== "gzip", "ColumnCheck refuses a chunk that is a gzip of its own");
  return codec;
}
