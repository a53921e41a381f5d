// SPDX-License-Identifier: Apache-2.0
// How a stream's logical bytes lie in its blob. Today every stream is a raw EROFS layer,
// mapped one to one; formats with chunks and digests implement the same interface.

import { BLOCK_BYTES, type Extent, alignDown, alignUp, extentEnd } from "../units.ts";

export interface ChunkMap {
  /** Logical size in bytes. */
  readonly sizeBytes: number;
  /** The smallest extent of whole units, on 4 KiB boundaries, that contains `extent`. */
  widen(extent: Extent): Extent;
  /**
   * The stored bytes behind a widened extent. Where the stored extent is shorter, the rest of
   * the logical one is zeros (the stream's tail).
   */
  stored(extent: Extent): Extent;
}

/** A raw layer: logical byte n is stored byte n, its unit is a 4 KiB block, its tail is zeros. */
export function rawChunkMap(sizeBytes: number): ChunkMap {
  return {
    sizeBytes,
    widen(extent) {
      const offset = alignDown(extent.offset, BLOCK_BYTES);
      return { offset, length: alignUp(extentEnd(extent), BLOCK_BYTES) - offset };
    },
    stored(extent) {
      const offset = Math.min(extent.offset, sizeBytes);
      return { offset, length: Math.min(extentEnd(extent), sizeBytes) - offset };
    },
  };
}
