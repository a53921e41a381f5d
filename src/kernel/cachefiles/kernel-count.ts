// SPDX-License-Identifier: Apache-2.0
// How many objects the kernel itself counts: after a takeover a daemon knows only those that were
// opened again, and what is wholly cached never is.
// Source: fs/netfs/fscache_cache.c, fscache_caches_seq_show(); kernel-notes/cachefiles-crash-and-restore.md.

import { readFile } from "node:fs/promises";

const PATH = "/proc/fs/fscache/caches";

/** Undefined when the kernel does not tell. */
export async function kernelObjectCount(): Promise<number | undefined> {
  const text = await readFile(PATH, "utf8").catch(() => undefined);
  return text === undefined ? undefined : parseCaches(text);
}

/** One line a cache: number (hexadecimal), references, volumes, objects, accesses, state, name. */
export function parseCaches(text: string): number {
  let objects = 0;
  for (const [, count] of text.matchAll(/^\s*[0-9a-f]+\s+\d+\s+\d+\s+(\d+)\s/gm)) {
    objects += Number(count);
  }
  return objects;
}
