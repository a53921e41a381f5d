// SPDX-License-Identifier: Apache-2.0
// Decodes units as a reader of the format would, without the code that serves them: zlib for zran
// slices, the addon for what zlib lacks. And builds a whole map where the caller need not yield.

import { createHash } from "node:crypto";
import { inflateRawSync, constants } from "node:zlib";
import { blake3 } from "@napi-rs/blake-hash";
import type { Codec, Digester, InflateStart, Unit } from "../../src/image/chunk-map.ts";
import { type ChunkMapSource, buildChunkMap } from "../../src/image/rafs/build-chunk-map.ts";
import type { RafsChunkMap } from "../../src/image/rafs/chunk-map.ts";
import type { Native } from "../../src/platform/native.ts";
import { alignUp } from "../../src/units.ts";

/** Deflate blocks that produce nothing, as many bits long as bring the next byte into phase. */
const EMPTY_BLOCKS = [
  "",
  "04e081000000000010fc5f4300",
  "02082000",
  "04e081000000000010fc5f03",
  "020800",
  "04e081000000000010fc5f4300010400",
  "0200",
  "04e081000000000010fc5f43000100",
];

export function buildNow(source: ChunkMapSource): RafsChunkMap {
  const building = buildChunkMap(source);
  for (;;) {
    const step = building.next();
    if (step.done === true) return step.value;
  }
}

export function digestWith(digester: Digester, bytes: Uint8Array): Uint8Array {
  if (digester === "sha256") return createHash("sha256").update(bytes).digest();
  return Buffer.from(blake3(Buffer.from(bytes)));
}

/** The first `decodedBytes` of what `stored` decodes to. */
export async function decodeUnit(
  native: Pick<Native, "decode">,
  unit: Unit,
  stored: Uint8Array,
): Promise<Uint8Array> {
  if (unit.codec === "none") return stored;
  if (unit.codec === "inflate")
    return inflateFrom(stored, unit.start).subarray(0, unit.decodedBytes);
  return decodeWith(native, { codec: unit.codec, stored, decodedBytes: unit.decodedBytes });
}

export async function decodeWith(
  native: Pick<Native, "decode">,
  of: { readonly codec: Codec; readonly stored: Uint8Array; readonly decodedBytes: number },
): Promise<Uint8Array> {
  const { codec, stored, decodedBytes } = of;
  if (codec === "none") return stored;
  const target = new Uint8Array(alignUp(decodedBytes, 4096));
  const pieces = Uint32Array.of(0, decodedBytes, 0);
  const source = Uint8Array.from(stored);
  const place = { source, sourceOffset: 0, sourceLength: source.length };
  await native.decode({ codec, ...place, decodedBytes, target, pieces });
  return target.subarray(0, decodedBytes);
}

function inflateFrom(stored: Uint8Array, start: InflateStart | undefined): Uint8Array {
  const { bits = 0, byte = 0, dictionary = new Uint8Array() } = start ?? {};
  const prefix = Buffer.from(EMPTY_BLOCKS[bits] ?? "", "hex");
  const last = prefix.length - 1;
  if (last >= 0) prefix[last] = (prefix[last] ?? 0) | (byte & (0xff << (8 - bits)) & 0xff);
  return inflateRawSync(Buffer.concat([prefix, stored]), {
    ...(dictionary.length === 0 ? {} : { dictionary }),
    finishFlush: constants.Z_SYNC_FLUSH,
  });
}
