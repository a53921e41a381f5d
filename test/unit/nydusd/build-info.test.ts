// SPDX-License-Identifier: Apache-2.0

import { expect, test } from "vitest";
import { buildInfo, versionText } from "../../../src/nydusd/build-info.ts";

test("the version's lines are those that callers look for, and tell the commit a daemon tells", () => {
  const text = versionText();
  expect(/Git Commit:\s*(.+)/.exec(text)?.[1]).toBe(buildInfo().git_commit);
  for (const line of ["Version: ", "Build Time: ", "Profile: ", "Rustc: "]) {
    expect(text).toContain(line);
  }
  expect(buildInfo().package_ver).toMatch(/^v\d+\.\d+\.\d+/);
});

test("the commit is a hash, in a commit's form", () => {
  expect(buildInfo().git_commit).toMatch(/^[0-9a-f]{40}$/);
});
