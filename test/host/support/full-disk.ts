// SPDX-License-Identifier: Apache-2.0
// A filesystem with no room, for a while.

import { rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { end } from "./site.ts";

const TRIES = 8;
/** Blocks that may be left: no file of ours fits into them. */
const BLOCKS_LEFT = 2;

/** Takes all the room there is; what is returned gives it back. */
export async function fillDisk(directory: string): Promise<() => Promise<void>> {
  const ballast = Array.from({ length: TRIES }, (_, at) => join(directory, `ballast-${at}`));
  // Others write meanwhile: what does not fit any more is tried smaller.
  for (const path of ballast) {
    const { bavail, bsize } = await statfs(directory);
    if (bavail <= BLOCKS_LEFT) break;
    await end("fallocate", ["-l", String((bavail - BLOCKS_LEFT) * bsize), path]);
  }
  return async () => {
    for (const path of ballast) await rm(path, { force: true });
  };
}
