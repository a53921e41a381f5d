// SPDX-License-Identifier: Apache-2.0
// Which parts of an image are its metadata: an image of which nothing else is left shows the same
// inodes, directories and extents. (That the kernel agrees is shown by test/host.)

import { link, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { featuresOf } from "../../../../src/image/erofs/features.ts";
import { type DeviceExtent, ErofsReader, extentsOf } from "../../../../src/image/erofs/inode.ts";
import {
  hasKnownMetadata,
  metadataExtents,
  metadataPlaces,
} from "../../../../src/image/erofs/metadata.ts";
import { parseSuperblock } from "../../../../src/image/erofs/superblock.ts";
import { inodesUnder } from "../../../../src/image/erofs/tree.ts";
import { BLOCK_BYTES, alignDown, alignUp } from "../../../../src/units.ts";
import { mkfsErofs, writeTree } from "../../../support/mkfs.ts";
import { tempDir } from "../../../support/temp-dir.ts";

async function made(args: readonly string[]): Promise<Buffer> {
  const home = await tempDir();
  const tree = await writeTree(home);
  await mkdir(join(tree, "many"));
  for (let n = 0; n < 300; n += 1) await writeFile(join(tree, "many", `name-${n}`.repeat(5)), "x");
  await link(join(tree, "noise"), join(tree, "sub", "again"));
  await symlink("y".repeat(900), join(tree, "link"));
  await writeFile(join(tree, "large"), Buffer.alloc(3 << 20, await readFile(join(tree, "noise"))));
  await mkfsErofs(join(home, "image"), tree, args);
  return readFile(join(home, "image"));
}

/** Copies to `kept` whatever is read. */
function readerOf(image: Buffer, metaBlock: number, kept?: Buffer): ErofsReader {
  const readAt = (offset: number, length: number): Promise<Uint8Array> => {
    if (kept !== undefined) keep(image, kept, { offset, length });
    return Promise.resolve(image.subarray(offset, offset + length));
  };
  const file = { readAt, sizeBytes: image.length, metaBlock, deviceBlocks: [], where: "test" };
  return new ErofsReader(file);
}

function keep(from: Buffer, to: Buffer, extent: { offset: number; length: number }): void {
  const end = alignUp(extent.offset + extent.length, BLOCK_BYTES);
  const start = alignDown(extent.offset, BLOCK_BYTES);
  from.copy(to, start, start, Math.min(end, from.length));
}

async function shown(image: Buffer): Promise<[object[], DeviceExtent[]]> {
  const places = metadataPlaces(image, parseSuperblock(image, "test"), "test");
  const reader = readerOf(image, places.metaBlock);
  const inodes = [];
  const extents = [];
  for await (const inode of inodesUnder(reader, places.rootNid)) {
    inodes.push(inode);
    for await (const extent of extentsOf(reader, inode.nid)) extents.push(extent);
  }
  return [inodes, extents];
}

test.each([
  ["plain", []],
  ["chunks", ["--chunksize=4096"]],
  ["compressed", ["-zlz4"]],
  ["fragments", ["-zlz4", "-C65536", "-Efragments,ztailpacking"]],
])("%s: is enough to see the tree by, and leaves data out", async (_, args) => {
  const image = await made(args);
  const superblock = parseSuperblock(image, "test");
  expect(hasKnownMetadata(superblock.features)).toBe(true);
  const places = metadataPlaces(image, superblock, "test");
  const kept = Buffer.alloc(image.length);
  const reader = readerOf(image, places.metaBlock, kept);
  for await (const extent of metadataExtents(reader, places, superblock)) {
    keep(image, kept, extent);
  }
  const [inodes, extents] = await shown(image);
  expect(inodes.length).toBeGreaterThan(300);
  expect(await shown(kept)).toEqual([inodes, extents]);
  let missing = 0;
  for (let at = 0; at < image.length; at += BLOCK_BYTES) {
    const block = [at, at + BLOCK_BYTES] as const;
    if (!kept.subarray(...block).equals(image.subarray(...block))) missing += 1;
  }
  // What compresses well is little.
  expect(missing).toBeGreaterThan(args.includes("-zlz4") ? 20 : 700);
});

test("features of which it is not known what they add are not walked", () => {
  expect(hasKnownMetadata(featuresOf(0x3f))).toBe(true);
  for (const bit of [0x40, 0x80, 0x100]) expect(hasKnownMetadata(featuresOf(bit))).toBe(false);
});
