// SPDX-License-Identifier: Apache-2.0
// Source trees of the test images: every kind of file that is stored differently, with content
// that is the same on every machine (but for one program, copied from the machine itself).

import { createCipheriv } from "node:crypto";
import { copyFile, mkdir, open, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KIB, MIB } from "../../../src/units.ts";

const PIECE_BYTES = MIB;

/** Small sizes around a block, and two that end inside one. */
export const ODD_SIZES = [0, 1, 4096, 4097, 123_457] as const;
export const PROGRAM = "program";
const PROGRAM_SOURCE = "/usr/bin/sha256sum";

/** At most 4 MiB: what every kernel reads in full. */
export async function writeSmallTree(tree: string): Promise<void> {
  await mkdir(tree, { recursive: true });
  for (const size of ODD_SIZES) await writeNoise(join(tree, `size-${size}`), size, `odd ${size}`);
  await writeNoise(join(tree, "mebibyte"), MIB, "mebibyte");
  await writeNoise(join(tree, "odd-end"), MIB + 300 * KIB + 777, "odd end");
  const lines = Array.from({ length: 20_000 }, (_, line) => `line ${line} of a text\n`);
  await writeFile(join(tree, "text"), lines.join(""));
  await writeHoles(join(tree, "holes"));
  await mkdir(join(tree, "many"));
  for (let at = 0; at < 300; at += 1) {
    await writeNoise(join(tree, "many", `file-${at}`), (at * 37) % 700, `many ${at}`);
  }
  const deep = join(tree, ...Array.from({ length: 20 }, (_, level) => `level-${level}`));
  await mkdir(deep, { recursive: true });
  await writeFile(join(deep, "bottom"), "the bottom\n");
  await symlink("size-4097", join(tree, "link"));
  await symlink("/nowhere/at/all", join(tree, "dangling"));
  await symlink("level-0/level-1", join(tree, "link-to-directory"));
  await copyFile(PROGRAM_SOURCE, join(tree, PROGRAM));
}

/** One large file and few others. */
export async function writeLargeTree(tree: string): Promise<void> {
  await mkdir(tree, { recursive: true });
  await writeNoise(join(tree, "mib-64"), 64 * MIB + 4321, "64 MiB");
  await writeNoise(join(tree, "size-4097"), 4097, "beside 64 MiB");
}

/** One file of exactly 32 MiB: what the counting limits are stated for. */
export async function writeSequentialTree(tree: string): Promise<void> {
  await mkdir(tree, { recursive: true });
  await writeNoise(join(tree, "mib-32"), 32 * MIB, "32 MiB");
}

/** Two trees of one shape and other bytes, so that their images have the same size. */
export async function writeEqualSizedTree(tree: string, seed: string): Promise<void> {
  await mkdir(tree, { recursive: true });
  for (let at = 0; at < 4; at += 1) {
    await writeNoise(join(tree, `part-${at}`), 200 * KIB + at, `${seed} ${at}`);
  }
}

/** Bytes that do not compress and do not repeat. */
export async function writeNoise(path: string, size: number, seed: string): Promise<void> {
  const key = Buffer.alloc(16);
  key.write(seed.slice(-16));
  const cipher = createCipheriv("aes-128-ctr", key, Buffer.alloc(16));
  const file = await open(path, "w");
  try {
    for (let left = size; left > 0; left -= PIECE_BYTES) {
      await file.writeFile(cipher.update(Buffer.alloc(Math.min(left, PIECE_BYTES))));
    }
  } finally {
    await file.close();
  }
}

/** Data, a hole, data in the middle, a hole at the end. */
async function writeHoles(path: string): Promise<void> {
  const file = await open(path, "w");
  try {
    await file.write("begin", 0);
    await file.write("middle", 150_001);
  } finally {
    await file.close();
  }
  await truncate(path, 400_001);
}
