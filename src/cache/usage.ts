// SPDX-License-Identifier: Apache-2.0
// How much the cache takes, as the filesystem counts it: blocks, not sizes, since cache files have
// holes. Layout: <dir>/cache/I<volume>/@<hash>/D<cookie key> (kernel-notes/cachefiles-disk-names.md),
// and with fanotify <dir>/fanotify/streams/<name>, each with a record beside it.

import { stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { stem, stemOfFile, streamsDirectory } from "../kernel/fanotify/names.ts";
import { listOrNone } from "../platform/list-directory.ts";
import { encodedObjectFile } from "./disk-names.ts";

/** st_blocks counts in these (stat(2)), whatever the filesystem's own blocks are. */
const STAT_BLOCK_BYTES = 512;

export interface DiskUsage {
  readonly usedBytes: number;
  readonly files: number;
  readonly filesystem: {
    readonly sizeBytes: number;
    /** For processes without privileges, as `df` tells it. */
    readonly freeBytes: number;
    readonly inodes: number;
    readonly freeInodes: number;
  };
}

/** Walks the whole cache, one directory after the other; files that go away meanwhile do not count. */
export async function diskUsage(cacheDir: string): Promise<DiskUsage> {
  let usedBytes = 0;
  let files = 0;
  const root = join(cacheDir, "cache");
  for (const volume of await listOrNone(root)) {
    for (const fan of await listOrNone(join(root, volume))) {
      for (const name of await listOrNone(join(root, volume, fan))) {
        const found = await blocksOf(join(root, volume, fan, name));
        if (found === undefined) continue;
        usedBytes += found;
        files += 1;
      }
    }
  }
  const streams = streamsDirectory(cacheDir);
  for (const name of await listOrNone(streams)) {
    usedBytes += (await blocksOf(join(streams, name))) ?? 0;
    if (!name.includes(".")) files += 1;
  }
  const { bsize, blocks, bavail, files: inodes, ffree: freeInodes } = await statfs(cacheDir);
  const sizes = { sizeBytes: blocks * bsize, freeBytes: bavail * bsize };
  return { usedBytes, files, filesystem: { ...sizes, inodes, freeInodes } };
}

/** Paths of the cache files that fanotify has, by what their names have of a key. */
export type StreamFiles = ReadonlyMap<string, readonly string[]>;

export async function streamFiles(cacheDir: string): Promise<StreamFiles> {
  const directory = streamsDirectory(cacheDir);
  const files = new Map<string, string[]>();
  for (const name of await listOrNone(directory)) {
    // Records, and what is being written.
    if (name.includes(".")) continue;
    const of = files.get(stemOfFile(name)) ?? [];
    of.push(join(directory, name));
    files.set(stemOfFile(name), of);
  }
  return files;
}

/** What is cached under a key, in bytes of blocks, by the door that has more of it; 0: nothing is. */
export async function cachedOnDisk(
  cacheDir: string,
  name: { readonly volumeKey: string; readonly cookieKey: string },
  streams: StreamFiles,
): Promise<number> {
  const file = encodedObjectFile(cacheDir, name);
  const paths = [...(streams.get(stem(name)) ?? [])];
  if (file !== undefined) paths.push(join(file.directory, file.name));
  const bytes = await Promise.all(paths.map((path) => blocksOf(path)));
  return Math.max(0, ...bytes.map((each) => each ?? 0));
}

async function blocksOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true ? found.blocks * STAT_BLOCK_BYTES : undefined;
}
