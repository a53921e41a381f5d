// SPDX-License-Identifier: Apache-2.0
// What a cache file holds, held against what it should: by reading the file itself, with no part of
// the daemon between. Offsets and lengths are bytes.

import { type FileHandle, open } from "node:fs/promises";
import type { Native } from "../../../src/platform/native.ts";
import { BLOCK_BYTES, type Extent, MIB, alignUp, extentEnd } from "../../../src/units.ts";

const EXTENTS_MAX = 1 << 16;

/** The extents of the file that hold data; undefined when there is no such file. */
export async function dataOf(
  native: Pick<Native, "dataExtents">,
  path: string,
): Promise<Extent[] | undefined> {
  const file = await openThere(path);
  if (file === undefined) return undefined;
  try {
    const { size: sizeBytes } = await file.stat();
    const within = { from: 0, sizeBytes, extentsMax: EXTENTS_MAX };
    const found = await native.dataExtents(file.fd, within);
    const extents: Extent[] = [];
    for (let at = 0; at + 1 < found.length; at += 2) {
      const offset = found[at] ?? 0;
      extents.push({ offset, length: (found[at + 1] ?? offset) - offset });
    }
    return extents;
  } finally {
    await file.close();
  }
}

/** The blocks of `extents` in which `path` is not what `truth` is; past the end of `truth` it must hold zeros. */
export async function wrongBlocks(
  path: string,
  truth: string,
  extents: readonly Extent[],
): Promise<number[]> {
  const [file, right] = [await open(path), await open(truth)];
  try {
    const wrong: number[] = [];
    for (const extent of extents) {
      for (let at = extent.offset; at < extentEnd(extent); at += MIB) {
        const length = Math.min(MIB, extentEnd(extent) - at);
        const [is, shouldBe] = [await bytesAt(file, at, length), await bytesAt(right, at, length)];
        if (is.equals(shouldBe)) continue;
        for (let block = 0; block < length; block += BLOCK_BYTES) {
          const end = Math.min(block + BLOCK_BYTES, length);
          if (is.compare(shouldBe, block, end, block, end) !== 0) wrong.push(at + block);
        }
      }
    }
    return wrong;
  } finally {
    await file.close();
    await right.close();
  }
}

/** The parts of `before` that `now` lacks. Both are in order. */
export function lostOf(before: readonly Extent[], now: readonly Extent[]): Extent[] {
  const lost: Extent[] = [];
  for (const extent of before) {
    let at = extent.offset;
    for (const there of now) {
      if (extentEnd(there) <= at || there.offset >= extentEnd(extent)) continue;
      if (there.offset > at) lost.push({ offset: at, length: there.offset - at });
      at = extentEnd(there);
    }
    if (at < extentEnd(extent)) lost.push({ offset: at, length: extentEnd(extent) - at });
  }
  return lost;
}

export function bytesIn(extents: readonly Extent[]): number {
  return extents.reduce((sum, { length }) => sum + length, 0);
}

/** Turns one bit in the middle of what the file holds: what a checker must find. */
export async function plantDamage(path: string, extents: readonly Extent[]): Promise<number> {
  const extent = extents[Math.floor(extents.length / 2)];
  if (extent === undefined) throw new Error(`${path} holds nothing`);
  const at = extent.offset + Math.floor(extent.length / 2);
  const file = await open(path, "r+");
  try {
    const byte = await bytesAt(file, at, 1);
    await file.write(Uint8Array.of((byte[0] ?? 0) ^ 1), 0, 1, at);
    await file.sync();
  } finally {
    await file.close();
  }
  return at - (at % BLOCK_BYTES);
}

async function bytesAt(file: FileHandle, at: number, length: number): Promise<Buffer> {
  // Zeros where the file ends.
  const bytes = Buffer.alloc(alignUp(length, BLOCK_BYTES));
  for (let from = 0; from < length; ) {
    const { bytesRead } = await file.read(bytes, from, length - from, at + from);
    if (bytesRead === 0) break;
    from += bytesRead;
  }
  return bytes.subarray(0, length);
}

async function openThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
