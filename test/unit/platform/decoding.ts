// SPDX-License-Identifier: Apache-2.0
// Units for the decoder's tests, and the pool that decodes them.

import { expect } from "vitest";
import { AwaitablePool, type RawDecoderPool, addon } from "./addon.ts";

/** The numbers of native/src/decode.h. */
export const CODEC = { none: 0, lz4: 1, zstd: 2, inflate: 3 };
export const NO_BYTES = Uint8Array.of();

export interface Unit {
  readonly codec: number;
  readonly source: Uint8Array;
  readonly decodedBytes: number;
  readonly start?: { dictionary: Uint8Array; bits: number; byte: number };
  readonly target?: Uint8Array;
  readonly pieces?: readonly number[];
}

export function submit(pool: RawDecoderPool, unit: Unit, source = unit.source): number {
  const { codec, decodedBytes, start = { dictionary: NO_BYTES, bits: 0, byte: 0 } } = unit;
  const target = unit.target ?? new Uint8Array(blocks(decodedBytes));
  const pieces = Uint32Array.from(unit.pieces ?? [0, decodedBytes, 0]);
  const { dictionary, bits, byte } = start;
  const stored = [source, 0, source.length, decodedBytes];
  return pool.decode(codec, ...stored, dictionary, bits, byte, target, pieces);
}

export const blocks = (bytes: number): number => Math.ceil(bytes / 4096) * 4096;

export type Decoders = AwaitablePool<RawDecoderPool>;

export const startDecoders = (threads: number, queueMax = 256): Decoders =>
  new AwaitablePool(addon.DecoderPool, { threads, queueMax });

/** The unit's end: 0 or -errno. */
export const run = (decoders: Decoders, unit: Unit) => decoders.end(submit(decoders.raw, unit));

/** What the unit decodes to, straight into the target and by way of two pieces. */
export async function decoded(
  decoders: Decoders,
  unit: Omit<Unit, "target" | "pieces">,
): Promise<Buffer> {
  const { decodedBytes } = unit;
  const straight = new Uint8Array(blocks(decodedBytes)).fill(0xee);
  expect(await run(decoders, { ...unit, target: straight })).toBe(0);
  const first = Math.min(4096, decodedBytes);
  const apart = new Uint8Array(blocks(decodedBytes) + 4096).fill(0xee);
  const pieces = [0, first, 0, first, decodedBytes - first, 4096];
  expect(await run(decoders, { ...unit, target: apart, pieces })).toBe(0);
  expect(Buffer.compare(straight, apart.subarray(0, straight.length))).toBe(0);
  expect(straight.subarray(decodedBytes).every((byte) => byte === 0)).toBe(true);
  return Buffer.from(straight.subarray(0, decodedBytes));
}

/** Text-like bytes that compress, the same for the same seed. */
export function sample(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let i = 0; i < length; i += 1) {
    if (i % 7 === 0) state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = 97 + (((state >>> 16) + (i % 7)) % 23);
  }
  return bytes;
}
