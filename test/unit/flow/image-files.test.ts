// SPDX-License-Identifier: Apache-2.0
// The files of a Nydus image and of a raw one, with where their bytes lie.

import { randomBytes } from "node:crypto";
import { copyFile, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { imageFiles } from "../../../src/flow/image-files.ts";
import { PACKED_PATH } from "../../../src/image/erofs/compressed.ts";
import { FlowRig, digestOf } from "../../support/flow-rig.ts";
import { mkfsErofs, writeTree } from "../../support/mkfs.ts";
import { FIXTURES } from "../../support/rafs-fixtures.ts";
import { tempDir } from "../../support/temp-dir.ts";

/** In the superblock: what a kernel must know. */
const FEATURES_AT = 1024 + 80;
const FRAGMENTS = 0x20;
const never = new AbortController().signal;

/** As a registry would give it. */
function rawImage(bytes: Buffer) {
  const rig = new FlowRig();
  const stream = rig.blob(bytes);
  const source = {
    readRange: (
      _: unknown,
      { offset, length }: { offset: number; length: number },
      take: (piece: Uint8Array) => void,
    ) => {
      take(bytes.subarray(offset, offset + length));
      return Promise.resolve();
    },
  };
  return imageFiles(
    { source, clock: rig.clock, bootstrapDirectory: "/nowhere" },
    { stream, reference: "r/a:1" },
    never,
  );
}

test("of a raw image: read beside what is served, every byte where it says", async () => {
  const folder = await tempDir();
  await mkdir(join(folder, "tree", "sub"), { recursive: true });
  const content = Buffer.alloc(50_000, "a file's bytes ");
  await writeFile(join(folder, "tree", "sub", "file"), content);
  await writeFile(join(folder, "tree", "empty"), "");
  const image = join(folder, "image");
  await mkfsErofs(image, join(folder, "tree"), ["-Enoinline_data"]);
  const bytes = await readFile(image);
  const files = [];
  for await (const file of rawImage(bytes)) files.push(file);
  expect(files.map(({ path }) => path)).toEqual(["/sub/file"]);
  const [extent] = files[0]?.extents ?? [];
  const { device, offset = 0 } = extent ?? {};
  expect(device).toBe(0);
  expect(bytes.subarray(offset, offset + content.length).equals(content)).toBe(true);
});

test("of a compressed image: what is stored of each, and what their ends are packed into", async () => {
  const folder = await tempDir();
  const tree = await writeTree(folder);
  for (let n = 0; n < 20; n += 1) await writeFile(join(tree, `small-${n}`), randomBytes(3000));
  const image = join(folder, "image");
  await mkfsErofs(image, tree, ["-zlz4hc", "-C8192", "-Efragments"]);
  const bytes = await readFile(image);
  const taken = new Map<number, string>();
  for await (const { path, extents } of rawImage(bytes)) {
    for (const { offset, length } of extents) {
      for (let at = offset; at < offset + length; at += 4096) {
        expect([path, taken.get(at)]).toEqual([path, undefined]);
        taken.set(at, path);
      }
    }
  }
  // mkfs.erofs before 1.6 packs nothing: small files stay beside their inodes.
  const isPacked = (bytes.readUInt32LE(FEATURES_AT) & FRAGMENTS) !== 0;
  const expected = ["/noise", "/text", ...(isPacked ? [PACKED_PATH] : [])];
  expect(new Set(taken.values())).toEqual(new Set(expected));
  // All but the metadata at its beginning.
  expect(taken.size * 4096).toBeGreaterThan(bytes.length - (isPacked ? 8 : 32) * 4096);
});

test("of a Nydus image: out of its bootstrap, on its devices", async () => {
  const folder = await tempDir();
  const path = join(FIXTURES, "directory/zstd-sha256/bootstrap");
  const digest = digestOf(await readFile(path));
  await copyFile(path, join(folder, digest.slice("sha256:".length)));
  const { size } = await stat(path);
  const origin = { kind: "directory", host: "directory", repository: folder } as const;
  const stream = { digest, size, origin, format: "bootstrap" } as const;
  const source = { readRange: () => Promise.reject(new Error("nothing is fetched")) };
  const parts = { source, clock: new FlowRig().clock, bootstrapDirectory: folder };
  const files = [];
  for await (const file of imageFiles(parts, { stream, reference: "r/a:1" }, never))
    files.push(file);
  expect(files.length).toBeGreaterThan(5);
  expect(files.every(({ extents }) => extents.every(({ device }) => device === 1))).toBe(true);
  expect(files.every((file) => file.path.startsWith("/"))).toBe(true);
});
