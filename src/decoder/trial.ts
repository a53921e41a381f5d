// SPDX-License-Identifier: Apache-2.0
// A first decoding before a reader waits for one: threads are started, libraries bound and their
// state allocated, which takes a slow machine a quarter of a second.

import { availableParallelism } from "node:os";
import type { Native } from "../platform/native.ts";
import { BLOCK_BYTES } from "../units.ts";

/** 4096 zeros: head -c 4096 /dev/zero | zstd -19 --no-check | xxd -p */
const FRAME = Buffer.from("28b52ffd006845000008000100fcf78110", "hex");

/** Decodes a block of zeros on every thread. Rejects as Native.decode does. */
export async function tryDecoding(
  native: Pick<Native, "decode" | "allocateAligned">,
): Promise<void> {
  const target = native.allocateAligned(BLOCK_BYTES);
  const job = {
    codec: "zstd",
    source: FRAME,
    sourceOffset: 0,
    sourceLength: FRAME.length,
    decodedBytes: BLOCK_BYTES,
    start: undefined,
    target,
    pieces: new Uint32Array([0, BLOCK_BYTES, 0]),
  } as const;
  await Promise.all(Array.from({ length: availableParallelism() }, () => native.decode(job)));
}
