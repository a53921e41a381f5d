// SPDX-License-Identifier: Apache-2.0
// The checkers of the fault tests find what is planted: a bit, zeros where there was data, a block of
// a neighbour, bytes behind the end, what was lost.

import { open, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Native, loadNative } from "../../src/platform/native.ts";
import { BLOCK_BYTES, type Extent } from "../../src/units.ts";
import { tempDir } from "../support/temp-dir.ts";
import { bytesIn, dataOf, lostOf, plantDamage, wrongBlocks } from "./support/cached-bytes.ts";

const BLOCKS = 600;
const END = BLOCKS * BLOCK_BYTES - 1000;

let native: Native;
beforeAll(() => {
  native = loadNative({ writerThreads: 1 });
});
afterAll(() => native.destroy());

/** A cache file with two right extents, the second to the end. */
async function rig() {
  const home = await tempDir();
  const [path, truth] = [join(home, "cached"), join(home, "truth")];
  const right = Buffer.alloc(END);
  for (let at = 0; at + 4 <= END; at += 4) right.writeUInt32LE((at * 2654435761) % 2 ** 32, at);
  await writeFile(truth, right);
  await writeFile(path, "");
  await truncate(path, BLOCKS * BLOCK_BYTES);
  const put = async (bytes: Uint8Array, at: number): Promise<void> => {
    const file = await open(path, "r+");
    await file.write(bytes, 0, bytes.length, at);
    await file.close();
  };
  const first = 64 * BLOCK_BYTES;
  const second = 320 * BLOCK_BYTES;
  await put(right.subarray(first, 2 * first), first);
  await put(right.subarray(second), second);
  const extents = (await dataOf(native, path)) ?? [];
  return { path, truth, right, put, extents, first, second };
}

test("a right file passes, and no file is told from an empty one", async () => {
  const { path, truth, extents } = await rig();
  expect(bytesIn(extents)).toBeGreaterThanOrEqual(340 * BLOCK_BYTES);
  expect(await wrongBlocks(path, truth, extents)).toEqual([]);
  expect(await dataOf(native, `${path}-none`)).toBeUndefined();
});

test("one bit is found, in its block", async () => {
  const { path, truth, extents } = await rig();
  const at = await plantDamage(path, extents);
  expect(await wrongBlocks(path, truth, extents)).toEqual([at]);
});

test("zeros, a neighbour's block and bytes behind the end are found", async () => {
  const { path, truth, extents, right, put, first, second } = await rig();
  await put(new Uint8Array(BLOCK_BYTES), first);
  await put(right.subarray(0, BLOCK_BYTES), second);
  await put(Uint8Array.of(1), END);
  const last = END - (END % BLOCK_BYTES);
  expect(await wrongBlocks(path, truth, extents)).toEqual([first, second, last]);
});

test.each<[string, Extent[], Extent[], Extent[]]>([
  ["nothing", [{ offset: 0, length: 8 }], [{ offset: 0, length: 12 }], []],
  ["all", [{ offset: 4, length: 8 }], [], [{ offset: 4, length: 8 }]],
  ["the end", [{ offset: 0, length: 8 }], [{ offset: 0, length: 4 }], [{ offset: 4, length: 4 }]],
  [
    "the beginning and a hole",
    [{ offset: 0, length: 16 }],
    [
      { offset: 4, length: 4 },
      { offset: 12, length: 8 },
    ],
    [
      { offset: 0, length: 4 },
      { offset: 8, length: 4 },
    ],
  ],
])("what is lost: %s", (_, before, now, lost) => {
  expect(lostOf(before, now)).toEqual(lost);
});
