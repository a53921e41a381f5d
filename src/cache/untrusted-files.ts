// SPDX-License-Identifier: Apache-2.0
// Clean-up before the cache is bound, when the daemon's state is lost: a cached file whose key
// is not a content digest may hold anything, since nobody knows any more what it was given for.
// Layout: <dir>/cache/I<volume>/@<hash>/D<cookie key> (kernel-notes/cachefiles-disk-names.md).

import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";

const CONTENT_NAMED = /^D(sha256:)?[0-9a-f]{64}$/;

/** Deletes such files and returns how many. The cache must not be bound. */
export async function dropUntrustedFiles(cacheDir: string): Promise<number> {
  let dropped = 0;
  const root = join(cacheDir, "cache");
  for (const volume of await listOrNone(root)) {
    for (const fan of await listOrNone(join(root, volume))) {
      for (const name of await listOrNone(join(root, volume, fan))) {
        if (CONTENT_NAMED.test(name)) continue;
        await rm(join(root, volume, fan, name), { recursive: true, force: true });
        dropped += 1;
      }
    }
  }
  return dropped;
}

async function listOrNone(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    // A stray file where the kernel keeps directories is none of its cache files.
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw error;
  }
}
