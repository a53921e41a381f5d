// SPDX-License-Identifier: Apache-2.0
// The regular files of an EROFS image with their paths, a directory at a time; each directory is
// gone through once, so a tree that bites its own tail ends. Names are bytes: what is no UTF-8 is
// replaced, since paths are for people here.

import { invalid } from "../rafs/fields.ts";
import type { ErofsReader, Inode } from "./inode.ts";
import { type Entry, entriesOf } from "./tree.ts";

/** A path of PATH_MAX bytes has no more parts. */
const DEPTH_MAX = 2_048;
const DIRECTORIES_MAX = 1_000_000;
const PATH_LENGTH_MAX = 4_096;

export interface NamedFile {
  /** From the root, with a leading slash. */
  readonly path: string;
  readonly nid: number;
}

/** One with several names comes as often. Fault: image_invalid. */
export async function* namedFiles(
  reader: ErofsReader,
  rootNid: number,
): AsyncGenerator<NamedFile, void> {
  const { where } = reader.file;
  const decoder = new TextDecoder();
  const seen = new Set<number>();
  const open: { path: string; entries: AsyncGenerator<Entry, void> }[] = [];
  const enter = (path: string, inode: Inode): void => {
    if (inode.kind !== "directory" || seen.has(inode.nid)) return;
    if (seen.size >= DIRECTORIES_MAX || open.length >= DEPTH_MAX) {
      throw invalid(where, "it has too many directories, or too deep ones");
    }
    seen.add(inode.nid);
    open.push({ path, entries: entriesOf(reader, inode) });
  };
  enter("", await reader.inode(rootNid));
  for (let directory = open.at(-1); directory !== undefined; directory = open.at(-1)) {
    const { value: entry } = await directory.entries.next();
    if (entry === undefined) {
      open.pop();
      continue;
    }
    const name = decoder.decode(entry.name);
    const path = `${directory.path}/${name}`.slice(0, PATH_LENGTH_MAX);
    const inode = await reader.inode(entry.nid);
    if (inode.kind === "file") yield { path, nid: entry.nid };
    else enter(path, inode);
  }
}
