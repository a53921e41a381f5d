// SPDX-License-Identifier: Apache-2.0
// Where the kernel keeps an object's file: vectors from the probe that watches a kernel do it
// (kernel-notes/probes/disk-names.py).

import { mkdir, readdir, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { encodedObjectFile, objectFile } from "../../../src/cache/disk-names.ts";
import { dropCachedKey } from "../../../src/cache/untrusted-files.ts";
import { tempDir } from "../../support/temp-dir.ts";

const HEX = "0123456789abcdef".repeat(4);

test.each([
  ["erofs,dom", `sha256:${HEX}`, "@ba"],
  ["erofs,dom", "plain", "@29"],
  [`erofs,${"ab".repeat(32)}`, "cd".repeat(32), "@21"],
])("the file of %s %s is in %s", (volumeKey, cookieKey, fan) => {
  expect(objectFile("/c", { volumeKey, cookieKey })).toEqual({
    directory: `/c/cache/I${volumeKey}/${fan}`,
    name: `D${cookieKey}`,
  });
});

test.each(["with space", "a/b", "ü", ""])(
  "the key %j is encoded, and not looked for",
  (cookieKey) => {
    expect(objectFile("/c", { volumeKey: "erofs,dom", cookieKey })).toBeUndefined();
  },
);

test.each([
  ["with space", "E2TB6tE1OsM5SoB100"],
  ["plain", "Dplain"],
  ["\t", "T9"],
  ["a b ", "S61206220"],
  ["\x7f", "D\x7f"],
  ["ü", "Tbcc3"],
  ["x".repeat(253), undefined],
  [`/${"y".repeat(189)}`, undefined],
])("looking for %j finds %s", (cookieKey, name) => {
  expect(encodedObjectFile("/c", { volumeKey: "erofs,dom", cookieKey })?.name).toBe(name);
});

test("one key is dropped in every volume, its neighbours stay", async () => {
  const root = await tempDir();
  const [dropped, kept] = [HEX, HEX.replace("0", "f")];
  const left: string[] = [];
  for (const volumeKey of ["erofs,a", "erofs,b"]) {
    for (const cookieKey of [dropped, kept]) {
      const file = objectFile(root, { volumeKey, cookieKey });
      if (file === undefined) throw new Error("a plain key has a file");
      await mkdir(file.directory, { recursive: true });
      await writeFile(`${file.directory}/${file.name}`, "data");
    }
  }
  await dropCachedKey(root, dropped);
  for (const volume of await readdir(`${root}/cache`)) {
    for (const fan of await readdir(`${root}/cache/${volume}`)) {
      left.push(...(await readdir(`${root}/cache/${volume}/${fan}`)));
    }
  }
  expect(left).toEqual([`D${kept}`, `D${kept}`]);
});
