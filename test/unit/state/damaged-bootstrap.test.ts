// SPDX-License-Identifier: Apache-2.0
// A stored bootstrap is served to the kernel as it is: it is there only when its content is what
// it is named by, also when it is too large to be checked in one piece.

import { readFile, readdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { type StoredBootstrap, StreamStore } from "../../../src/state/stream-store.ts";
import { tempDir } from "../../support/temp-dir.ts";

const CONTENT = Buffer.alloc(3_000_000, "a bootstrap larger than a window");

let directory: string;
let kept: StoredBootstrap;
let told: string[];

/** As the next daemon sees it. */
const open = (): StreamStore => new StreamStore(directory, ({ message }) => told.push(message));

beforeEach(async () => {
  told = [];
  directory = await tempDir();
  await writeFile(join(directory, "image.boot"), CONTENT);
  kept = await open().addBootstrap(join(directory, "image.boot"));
});

test("is there for the next daemon", async () => {
  expect(await open().hasBootstrap(kept.digest, kept.size)).toBe(true);
  expect(told).toEqual([]);
});

const DAMAGES: readonly [name: string, damage: (path: string) => Promise<void>][] = [
  ["cut", (path) => truncate(path, 1000)],
  [
    "with one bit turned",
    async (path) => {
      const bytes = await readFile(path);
      bytes[2_000_000] = (bytes[2_000_000] ?? 0) ^ 1;
      await writeFile(path, bytes);
    },
  ],
];

test.each(DAMAGES)("%s: set aside, said once, and can be stored again", async (_, damage) => {
  await damage(kept.path);
  const store = open();
  for (let times = 0; times < 2; times += 1) {
    expect(await store.hasBootstrap(kept.digest, kept.size)).toBe(false);
  }
  expect(told.length).toBe(1);
  expect(told[0]).toContain("not the bootstrap it is named by");
  await store.addBootstrap(join(directory, "image.boot"));
  expect(await store.hasBootstrap(kept.digest, kept.size)).toBe(true);
  expect(CONTENT.equals(await readFile(kept.path))).toBe(true);
  expect((await readdir(store.bootstrapDirectory)).length).toBe(2);
});
