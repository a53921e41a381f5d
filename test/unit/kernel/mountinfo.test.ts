// SPDX-License-Identifier: Apache-2.0
// /proc/self/mountinfo as proc(5) describes it.

import { expect, test } from "vitest";
import { parseMountinfo } from "../../../src/kernel/mountinfo.ts";

const LINE =
  "36 35 98:0 / /mnt/a rw,noatime master:1 - erofs none ro,fsid=sha256:ab,domain_id=erofsd";

test("a mount has its point, type and options, with any number of optional fields", () => {
  const none = LINE.replace(" master:1", "");
  const two = LINE.replace("master:1", "master:1 propagate_from:2");
  for (const line of [LINE, none, two]) {
    expect(parseMountinfo(`${line}\n`)).toEqual([
      {
        mountPoint: "/mnt/a",
        root: "/",
        fsType: "erofs",
        source: "none",
        superOptions: ["ro", "fsid=sha256:ab", "domain_id=erofsd"],
      },
    ]);
  }
});

test("blanks, tabs, newlines and backslashes in paths and options are unescaped", () => {
  const [entry] = parseMountinfo(
    String.raw`1 2 0:1 / /a\040b\011c\012d\134e rw - erofs none ro,fsid=x\040y`,
  );
  expect(entry?.mountPoint).toBe("/a b\tc\nd\\e");
  expect(entry?.superOptions).toEqual(["ro", "fsid=x y"]);
});

test("an escaped backslash before digits is not unescaped twice", () => {
  const [entry] = parseMountinfo(String.raw`1 2 0:1 / /a\134040 rw - erofs none ro`);
  expect(entry?.mountPoint).toBe("/a\\040");
});

test("mounts stay in their order, and malformed lines are left out", () => {
  const second = LINE.replace("/mnt/a", "/mnt/b");
  const text = ["", "garbage", "1 2 0:1 / /x rw", LINE, "1 2 - ", second, ""].join("\n");
  expect(parseMountinfo(text).map(({ mountPoint }) => mountPoint)).toEqual(["/mnt/a", "/mnt/b"]);
});
