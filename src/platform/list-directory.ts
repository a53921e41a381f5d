// SPDX-License-Identifier: Apache-2.0
// Directories that may not be there.

import { readdir } from "node:fs/promises";

/** The names in a directory; none when it is not there, or a stray file stands in its place. */
export async function listOrNone(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw error;
  }
}
