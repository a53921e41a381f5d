// SPDX-License-Identifier: Apache-2.0
// Giving up what is cached because somebody asks for it: the files of an image, what nobody has
// used for long, or the oldest until the cache is small enough. What is in use stays.

import type { CookieName } from "../state/bindings.ts";

export interface CachedFile {
  /** Its name or path. */
  readonly id: string;
  /** As the filesystem counts it. */
  readonly bytes: number;
  /** Unix time. */
  readonly usedMs: number;
  /** False: it is in use, and there still. */
  readonly drop: () => Promise<boolean>;
}

export interface CachedFiles {
  list(): Promise<CachedFile[]>;
  isOf(file: Pick<CachedFile, "id">, name: CookieName): boolean;
}

/** All of what is given must hold. */
export interface PruneWish {
  readonly names?: readonly CookieName[] | undefined;
  /** Unix time. */
  readonly usedBeforeMs?: number | undefined;
  /** What may stay of the whole cache; the files used last do. */
  readonly leaveBytes?: number | undefined;
}

export interface Pruned {
  readonly files: number;
  readonly bytes: number;
  /** Files that would have gone, but are in use. */
  readonly inUse: number;
}

export async function prune(
  cached: CachedFiles,
  { names, usedBeforeMs = Infinity, leaveBytes }: PruneWish,
): Promise<Pruned> {
  const all = (await cached.list()).toSorted((a, b) => a.usedMs - b.usedMs);
  let left = all.reduce((sum, { bytes }) => sum + bytes, 0);
  let [files, bytes, inUse] = [0, 0, 0];
  for (const file of all) {
    if (leaveBytes !== undefined && left <= leaveBytes) break;
    if (file.usedMs >= usedBeforeMs) break;
    if (names !== undefined && !names.some((name) => cached.isOf(file, name))) continue;
    if (await file.drop()) {
      files += 1;
      bytes += file.bytes;
      left -= file.bytes;
    } else {
      inUse += 1;
    }
  }
  return { files, bytes, inUse };
}
