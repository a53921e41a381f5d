// SPDX-License-Identifier: Apache-2.0
// What the host's tests mount, and what they do to the files that it is cached in.

import { createCipheriv } from "node:crypto";
import { cp, link, mkdir, open, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeTree } from "../../support/mkfs.ts";
import { must } from "./site.ts";

export const LARGE_BYTES = 12 << 20;

/** Directories of one block and of many, links, attributes, files of all sizes, a large one. */
export async function writeHostTree(home: string): Promise<string> {
  const made = await writeTree(home);
  const stream = createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), Buffer.alloc(16));
  const noise = (bytes: number): Buffer => stream.update(Buffer.alloc(bytes));
  await mkdir(join(made, "many"));
  for (let n = 0; n < 400; n += 1) {
    const name = `${n}-${"long".repeat(n % 40)}`;
    await writeFile(join(made, "many", name), noise((n * 37) % 9000));
  }
  const block = noise(1 << 20);
  const file = await open(join(made, "large"), "w");
  for (let at = 0; at < LARGE_BYTES; at += block.length) {
    block.writeUInt32LE(at, 0);
    await file.write(block, 0, block.length, at);
  }
  await file.close();
  await link(join(made, "noise"), join(made, "sub", "noise-too"));
  await symlink("sub/tiny", join(made, "link"));
  await symlink("x/".repeat(450), join(made, "long-link"));
  for (const name of ["text", "noise", "sub", "many"]) {
    const set = (key: string, value: string) =>
      must("python3", [
        "-c",
        "import os,sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())",
        join(made, name),
        key,
        value,
      ]);
    await set("user.shared", "the same for all of them, so it is kept once");
    await set(`user.own-${name}`, name.repeat(30));
  }
  return made;
}

/** What may have happened to a cache file, by a name that ends "when it". */
export const DAMAGES: [string, (file: string) => Promise<unknown>][] = [
  ["was written into", (file) => overwrite(file, 6 << 20)],
  ["was cut", (file) => truncate(file, 1 << 20)],
  [
    "was cut and grown again",
    async (file) => {
      const { size } = await stat(file);
      await truncate(file, 1 << 20);
      await truncate(file, size);
    },
  ],
  [
    "was replaced by a copy with other bytes",
    async (file) => {
      await cp(file, `${file}.copy`);
      await overwrite(`${file}.copy`, 6 << 20);
      await rm(file);
      await must("mv", [`${file}.copy`, file]);
    },
  ],
  [
    "was replaced by a link to another",
    async (file) => {
      await must("mv", [file, `${file}.moved`]);
      await overwrite(`${file}.moved`, 6 << 20);
      await symlink(`${file}.moved`, file);
    },
  ],
  [
    "has a damaged record",
    async (file) => {
      await overwrite(`${file}.record`, 60);
      await overwrite(file, 6 << 20);
    },
  ],
  [
    "has lost its record",
    async (file) => {
      await rm(`${file}.record`);
      await overwrite(file, 6 << 20);
    },
  ],
];

async function overwrite(path: string, at: number): Promise<void> {
  const file = await open(path, "r+");
  try {
    await file.write(Buffer.from("damage".repeat(1000)), 0, 6000, at);
  } finally {
    await file.close();
  }
}
