// SPDX-License-Identifier: Apache-2.0
// The files of a Nydus image and of a raw one, with where their bytes lie.

import { copyFile, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { imageFiles } from "../../../src/flow/image-files.ts";

import { FlowRig, digestOf } from "../../support/flow-rig.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { FIXTURES } from "../../support/rafs-fixtures.ts";
import { tempDir } from "../../support/temp-dir.ts";

const never = new AbortController().signal;

test("of a raw image: read beside what is served, every byte where it says", async () => {
  const folder = await tempDir();
  await mkdir(join(folder, "tree", "sub"), { recursive: true });
  const content = Buffer.alloc(50_000, "a file's bytes ");
  await writeFile(join(folder, "tree", "sub", "file"), content);
  await writeFile(join(folder, "tree", "empty"), "");
  const image = join(folder, "image");
  await mkfsErofs(image, join(folder, "tree"), ["-Enoinline_data"]);
  const bytes = await readFile(image);
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
  const parts = { source, clock: rig.clock, bootstrapDirectory: folder };
  const files = [];
  for await (const file of imageFiles(parts, { stream, reference: "r/a:1" }, never))
    files.push(file);
  expect(files.map(({ path }) => path)).toEqual(["/sub/file"]);
  const [extent] = files[0]?.extents ?? [];
  const { device, offset = 0 } = extent ?? {};
  expect(device).toBe(0);
  expect(bytes.subarray(offset, offset + content.length).equals(content)).toBe(true);
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
