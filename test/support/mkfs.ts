// SPDX-License-Identifier: Apache-2.0
// Real EROFS images, made when a test runs, by mkfs.erofs (Debian package erofs-utils).

import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** A small tree: a file of many blocks that compress, one that does not, a tiny one. */
export async function writeTree(root: string): Promise<string> {
  const tree = join(root, "tree");
  await mkdir(join(tree, "sub"), { recursive: true });
  const text = Array.from({ length: 20_000 }, (_, line) => `line ${line}\n`).join("");
  let state = 1;
  const noise = Uint8Array.from({ length: 100_000 }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 24;
  });
  await writeFile(join(tree, "text"), text);
  await writeFile(join(tree, "noise"), noise);
  await writeFile(join(tree, "sub", "tiny"), "tiny\n");
  return tree;
}

/** Rejects with mkfs's own words. A fixed UUID and time make images equal from run to run. */
export async function mkfsErofs(
  image: string,
  tree: string,
  args: readonly string[] = [],
): Promise<void> {
  const fixed = ["-T0", "-U00000000-0000-4000-8000-000000000000", "--all-root"];
  await run("mkfs.erofs", ["--quiet", ...fixed, ...args, image, tree]);
}
