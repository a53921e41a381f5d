// SPDX-License-Identifier: Apache-2.0
// What the linter cannot see: headers, dead files, what lies at the top, words that do not
// belong in this repository.

import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { basename, dirname, join, normalize } from "node:path";
import { describe, expect, it } from "vitest";

const files = execFileSync("git", ["ls-files", "-co", "--exclude-standard"], { encoding: "utf8" })
  .split("\n")
  .filter((path) => path !== "");
const sources = files.filter((path) => /\.(ts|mjs|cc|h)$/.test(path));
const text = new Map(sources.map((path) => [path, readFileSync(path, "utf8")]));

const TOP = new Set([
  ".ci",
  ".gitignore",
  ".oxlintrc.json",
  "LICENSE",
  "README.md",
  "kernel-notes",
  "native",
  "package-lock.json",
  "package.json",
  "scripts",
  "src",
  "test",
  "tsconfig.json",
]);
const ENTRIES = /^(src\/cli\/erofsd(-nydusd|-mount)?\.ts|test\/|scripts\/|native\/)/;
const FIXTURES = "test/fixtures/";
const FIXTURE_BYTES_MAX = 6e6;
const VAGUE = /(^|[-/])(utils?|helpers?|managers?|misc|common)(\.|$)/;

describe("the tree", () => {
  it("has nothing at the top that is not in the plan", () => {
    const top = new Set(files.map((path) => path.split("/")[0] ?? ""));
    expect([...top].filter((entry) => !TOP.has(entry))).toEqual([]);
  });

  it("starts each source file with its licence, and with a header unless its tests tell", () => {
    const without = sources.filter((path) => {
      const [licence, header = ""] = (text.get(path) ?? "").replace(/^#!.*\n/, "").split("\n");
      if (licence !== "// SPDX-License-Identifier: Apache-2.0") return true;
      return !path.endsWith(".test.ts") && !/^\/\/ \S/.test(header);
    });
    expect(without).toEqual([]);
  });

  it("names files after what they hold", () => {
    expect(sources.filter((path) => VAGUE.test(basename(path)))).toEqual([]);
  });

  it("has no source file that nothing imports", () => {
    const imported = new Set<string>();
    for (const [path, content] of text) {
      for (const [, target] of content.matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)) {
        if (target !== undefined) imported.add(normalize(join(dirname(path), target)));
      }
    }
    const dead = sources.filter(
      (path) => path.startsWith("src/") && !ENTRIES.test(path) && !imported.has(path),
    );
    expect(dead).toEqual([]);
  });

  it("holds binary files only as fixtures, and of those no more than a clone can bear", () => {
    const numstat = execFileSync("git", ["grep", "-Il", ""], { encoding: "utf8" }).split("\n");
    const textFiles = new Set(numstat);
    const tracked = execFileSync("git", ["ls-files"], { encoding: "utf8" }).split("\n");
    const binary = tracked.filter((path) => path !== "" && !textFiles.has(path));
    expect(binary.filter((path) => !path.startsWith(FIXTURES))).toEqual([]);
    const sizes = files
      .filter((path) => path.startsWith(FIXTURES))
      .map((path) => statSync(path).size);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(FIXTURE_BYTES_MAX);
  });
});
