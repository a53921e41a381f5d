// SPDX-License-Identifier: Apache-2.0
// With the state lost, only files named by their content may stay.

import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { dropUntrustedFiles } from "../../../src/cache/untrusted-files.ts";
import { tempDir } from "../../support/temp-dir.ts";

const HEX = "0123456789abcdef".repeat(4);

test("files of digests stay, every other cached file goes", async () => {
  const root = await tempDir();
  const fan = join(root, "cache", "Ierofs,erofsd", "@4f");
  await mkdir(fan, { recursive: true });
  const kept = [`Dsha256:${HEX}`];
  const dropped = [
    `D${HEX}`,
    "Dlocalhost:5000",
    "E2TB6tE1OsM5SoB100",
    `Dsha256:${HEX.slice(1)}`,
    `Dsha256:${HEX.toUpperCase()}`,
    `Dsha256:${HEX}0`,
    `Dapp@sha256:${HEX}`,
    `E${HEX}`,
  ];
  for (const name of [...kept, ...dropped]) await writeFile(join(fan, name), "data");
  expect(await dropUntrustedFiles(root)).toBe(dropped.length);
  expect((await readdir(fan)).toSorted()).toEqual(kept.toSorted());
});

test("a cache that was never used has nothing to drop", async () => {
  expect(await dropUntrustedFiles(join(await tempDir(), "none"))).toBe(0);
});

test("stray files beside the kernel's directories do not stop the daemon", async () => {
  const root = await tempDir();
  await mkdir(join(root, "cache", "Ierofs,erofsd"), { recursive: true });
  await writeFile(join(root, "cache", "README"), "");
  await writeFile(join(root, "cache", "Ierofs,erofsd", "stray"), "");
  expect(await dropUntrustedFiles(root)).toBe(0);
});
