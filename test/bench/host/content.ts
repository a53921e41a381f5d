// SPDX-License-Identifier: Apache-2.0
// Bytes that compress about as programs do (zstd makes half of them), the same from run to run:
// in each block some that do not compress, some of few kinds, some that repeat.

import { createCipheriv } from "node:crypto";
import { BLOCK_BYTES } from "../../../src/units.ts";

const NOISE_BYTES = 1024;
const NARROW_BYTES = 1792;
const REPEATED_BYTES = 64;

/** Pieces of `pieceBytes`, `totalBytes` together. */
export function* contentPieces(
  totalBytes: number,
  pieceBytes: number,
  seed: number,
): Generator<Uint8Array, void> {
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed);
  const noise = createCipheriv("aes-128-ctr", key, Buffer.alloc(16));
  const zeros = Buffer.alloc(pieceBytes);
  for (let left = totalBytes; left > 0; left -= pieceBytes) {
    const piece = noise.update(zeros.subarray(0, Math.min(left, pieceBytes)));
    for (let at = 0; at < piece.length; at += BLOCK_BYTES) shapeBlock(piece, at);
    yield piece;
  }
}

function shapeBlock(piece: Buffer, at: number): void {
  const narrowEnd = Math.min(piece.length, at + NOISE_BYTES + NARROW_BYTES);
  for (let n = at + NOISE_BYTES; n < narrowEnd; n += 1) piece[n] = (piece[n] ?? 0) & 0x3f;
  const end = Math.min(piece.length, at + BLOCK_BYTES);
  if (narrowEnd < end) piece.fill(piece.subarray(at, at + REPEATED_BYTES), narrowEnd, end);
}
