// SPDX-License-Identifier: Apache-2.0
// How a stream's logical bytes lie in its blob, and what proves them. A raw EROFS layer is
// mapped one to one and proves nothing piece by piece; formats with chunks name units (what is
// fetched and decoded whole) and pieces (what a digest covers).

import { BLOCK_BYTES, type Extent, alignDown, alignUp, extentEnd } from "../units.ts";

/** How a unit's stored bytes become its decoded bytes. `inflate` is a raw deflate stream. */
export type Codec = "none" | "lz4_block" | "zstd" | "inflate";
export type Digester = "blake3" | "sha256";

/** Where in a deflate stream a unit begins (zran): the bytes before it, and bits of the byte before it. */
export interface InflateStart {
  /** At most 32768 bytes; empty at the start of a member. */
  readonly dictionary: Uint8Array;
  /** Of the byte before the unit: its `bits` (0 to 7) top bits come first. */
  readonly bits: number;
  readonly byte: number;
}

/** A chunk as a part of its unit: `length` decoded bytes, then zeros to the next 4 KiB. */
export interface Piece {
  /** Logical offset in the stream, a multiple of 4096. */
  readonly offset: number;
  /** Where it begins in the unit's decoded bytes. */
  readonly from: number;
  readonly length: number;
  /** Of the `length` decoded bytes, by the map's digester. */
  readonly digest: Uint8Array;
}

export interface Unit {
  readonly stored: Extent;
  readonly codec: Codec;
  /** The stored bytes decode to at least this many; what follows is not looked at (zran) or a fault. */
  readonly decodedBytes: number;
  readonly start?: InflateStart | undefined;
  /** In logical order, without gaps: each begins where the one before it, rounded up to 4096, ends. */
  readonly pieces: readonly Piece[];
}

export interface CutLimits {
  readonly logicalBytesMax: number;
  readonly storedBytesMax: number;
}

export interface ChunkMap {
  /** Logical size in bytes. */
  readonly sizeBytes: number;
  /** The smallest extent of whole units, on 4 KiB boundaries, that contains `extent`. */
  widen(extent: Extent): Extent;
  /**
   * The longest head of `extent` (whole units) that one fetch may carry: within both limits, or
   * its first unit alone when that exceeds them. Stops before the first chunk that may not be
   * served; a head of length 0 says that the first one may not.
   */
  cut(extent: Extent, limits: CutLimits): Extent;
  /**
   * The stored bytes behind an extent of whole units. For a raw map the stored extent may be
   * shorter than the logical one: the rest is zeros (the stream's tail).
   */
  stored(extent: Extent): Extent;
  /** The units behind an extent of whole units, in order; undefined for a raw map. */
  units(extent: Extent): readonly Unit[] | undefined;
  /** What `Piece.digest` is made with. */
  readonly digester: Digester | undefined;
}

/** A raw layer: logical byte n is stored byte n, its unit is a 4 KiB block, its tail is zeros. */
export function rawChunkMap(sizeBytes: number): ChunkMap {
  return {
    sizeBytes,
    digester: undefined,
    widen(extent) {
      const offset = alignDown(extent.offset, BLOCK_BYTES);
      return { offset, length: alignUp(extentEnd(extent), BLOCK_BYTES) - offset };
    },
    cut({ offset, length }, { logicalBytesMax, storedBytesMax }) {
      // Its stored bytes are its logical ones; a block is its unit.
      const most = Math.max(BLOCK_BYTES, Math.min(length, logicalBytesMax, storedBytesMax));
      return { offset, length: Math.min(length, alignDown(most, BLOCK_BYTES)) };
    },
    stored(extent) {
      const offset = Math.min(extent.offset, sizeBytes);
      return { offset, length: Math.min(extentEnd(extent), sizeBytes) - offset };
    },
    units: () => undefined,
  };
}
