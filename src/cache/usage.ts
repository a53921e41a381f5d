// SPDX-License-Identifier: Apache-2.0
// How much the cache takes, as the filesystem counts it: blocks, not sizes, since cache files have
// holes. Layout: <dir>/cache/I<volume>/@<hash>/D<cookie key> (kernel-notes/cachefiles-disk-names.md),
// and with fanotify <dir>/fanotify/streams/<name>, each with a record beside it.

import { stat, statfs } from "node:fs/promises";
import { join } from "node:path";
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
  const streams = join(cacheDir, "fanotify", "streams");
  for (const name of await listOrNone(streams)) {
    usedBytes += (await blocksOf(join(streams, name))) ?? 0;
    if (!name.includes(".")) files += 1;
  }
  const { bsize, blocks, bavail, files: inodes, ffree: freeInodes } = await statfs(cacheDir);
  const sizes = { sizeBytes: blocks * bsize, freeBytes: bavail * bsize };
  return { usedBytes, files, filesystem: { ...sizes, inodes, freeInodes } };
}

/** What is cached under a key, in bytes of blocks; 0 when nothing is. */
export async function cachedOnDisk(
  cacheDir: string,
  name: { readonly volumeKey: string; readonly cookieKey: string },
): Promise<number> {
  const file = encodedObjectFile(cacheDir, name);
  return file === undefined ? 0 : ((await blocksOf(join(file.directory, file.name))) ?? 0);
}

/** What a file takes of its filesystem; 0 when there is none. */
export async function allocatedBytes(path: string): Promise<number> {
  return (await blocksOf(path)) ?? 0;
}

async function blocksOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true ? found.blocks * STAT_BLOCK_BYTES : undefined;
}
