// SPDX-License-Identifier: Apache-2.0
// The Nydus images in test/fixtures/rafs (its README says what they are), how each is referred to,
// and what a mount of one must show.

import { strictEqual } from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { FIXTURES } from "../../support/rafs-fixtures.ts";
import { must } from "./run.ts";

export type Expectation = "two-layers" | "v2" | "directory";

export interface NydusImage {
  readonly name: string;
  readonly reference: string;
  readonly expectation: Expectation;
}

const TWO_LAYERS = [
  "nydus",
  "nydus-lz4",
  "nydus-none",
  "nydus-batch",
  "nydus-zran",
  "nydus-prefetch",
  "nydus-multi",
];

export const NYDUS_IMAGES: readonly NydusImage[] = [
  ...TWO_LAYERS.map((name) => tagged(name, "two-layers")),
  tagged("nydus-v2-dict", "v2"),
  ...["zstd-sha256", "lz4-sha256", "none-sha256"].map((name): NydusImage => {
    const reference = `rafs:${FIXTURES}directory/${name}/bootstrap`;
    return { name, reference, expectation: "directory" };
  }),
];

function tagged(name: string, expectation: Expectation): NydusImage {
  return { name, reference: `oci:${FIXTURES}layout:${name}`, expectation };
}

export function nydusImage(name: string): NydusImage {
  const found = NYDUS_IMAGES.find((image) => image.name === name);
  if (found === undefined) throw new Error(`there is no image ${name}`);
  return found;
}

/** One line a path, as the fixtures' list.py prints them: type, mode, owner, content, and so on. */
export async function expectTree(target: string, expectation: Expectation): Promise<void> {
  const wanted = await readFile(`${FIXTURES}expect-${expectation}.jsonl`, "utf8");
  const shown = await must("python3", [`${FIXTURES}make/list.py`, target]);
  const [got, want] = [shown.stdout, wanted].map((text) => text.trimEnd().split("\n").toSorted());
  strictEqual(got?.join("\n"), want?.join("\n"));
}

export interface FilesRead {
  /** Paths whose content is as it should be, and those that gave EIO. */
  readonly right: readonly string[];
  readonly failed: readonly string[];
}

const READER = String.raw`
import errno, hashlib, json, os, sys, urllib.parse
target, wanted = sys.argv[1:]
for line in open(wanted):
    entry = json.loads(line)
    if "sha256" not in entry: continue
    path = os.fsencode(target) + urllib.parse.unquote_to_bytes(entry["path"])
    try:
        with open(path, "rb") as file: actual = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        if error.errno != errno.EIO: raise
        print("failed", entry["path"])
        continue
    assert actual == entry["sha256"], "wrong bytes in " + entry["path"]
    print("right", entry["path"])
`;

/** Reads every file. Each must be right, or fail with EIO. */
export async function readFiles(target: string, expectation: Expectation): Promise<FilesRead> {
  const wanted = `${FIXTURES}expect-${expectation}.jsonl`;
  const { stdout } = await must("python3", ["-c", READER, target, wanted]);
  const lines = stdout.trimEnd().split("\n");
  const of = (word: string): string[] =>
    lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1));
  return { right: of("right"), failed: of("failed") };
}
