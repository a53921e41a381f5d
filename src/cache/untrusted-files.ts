// SPDX-License-Identifier: Apache-2.0
// Cached files that nobody can vouch for any more. When the daemon's state is lost, a file whose
// key is not a content digest may hold anything; nor is it known which image's digests the bytes
// of a Nydus blob (64 hex digits, without `sha256:`) were verified with.
// Layout: <dir>/cache/I<volume>/@<hash>/D<cookie key> (kernel-notes/cachefiles-disk-names.md).

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { syncDirectory } from "../platform/durable-file.ts";
import { listOrNone } from "../platform/list-directory.ts";
import { objectFile } from "./disk-names.ts";

const CONTENT_NAMED = /^Dsha256:[0-9a-f]{64}$/;

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

/**
 * Deletes what is cached under one key, in whatever volume, so that it does not come back after a
 * crash either. It must not be open.
 */
export async function dropCachedKey(cacheDir: string, cookieKey: string): Promise<void> {
  for (const volume of await listOrNone(join(cacheDir, "cache"))) {
    if (!volume.startsWith("I")) continue;
    const file = objectFile(cacheDir, { volumeKey: volume.slice(1), cookieKey });
    if (file === undefined || !(await listOrNone(file.directory)).includes(file.name)) continue;
    await rm(join(file.directory, file.name), { force: true });
    await syncDirectory(file.directory);
  }
}
