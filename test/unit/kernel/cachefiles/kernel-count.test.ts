// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { parseCaches } from "../../../../src/kernel/cachefiles/kernel-count.ts";

const HEAD = `CACHE    REF   VOLS  OBJS  ACCES S NAME
======== ===== ===== ===== ===== = ===============
`;

test.each([
  ["no cache", "", 0],
  ["one that has objects", "00000001     3     1     2     1 A CacheFiles\n", 2],
  ["two", "00000001  3 1 2 1 A erofsd\n0000000a  3 1 40 1 A other\n", 42],
])("%s", (_name, lines, objects) => {
  expect(parseCaches(HEAD + lines)).toBe(objects);
});
