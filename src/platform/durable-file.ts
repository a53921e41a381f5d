// SPDX-License-Identifier: Apache-2.0
// Putting a file on disk so that after a crash at any moment there is the old one or the new
// one, whole: a temporary name, sync, rename, sync of the directory.

import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

/** `write` fills the new file; mode 0600 in a directory of mode 0700. */
export async function replaceFile(
  path: string,
  write: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const temporary = `${path}.new`;
  try {
    const file = await open(temporary, "w", 0o600);
    try {
      await write(file);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(directory);
}

/** Names that were put into it, or taken out of it, are so after a crash too. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** What of a file writeAll needs: FileHandle's. */
export interface Writable {
  write(
    bytes: Uint8Array,
    from: number,
    length: number,
    at: number,
  ): Promise<{ readonly bytesWritten: number }>;
}

/** Writes all of `bytes`: a disk that is nearly full takes a part of them, and says no more. */
export async function writeAll(file: Writable, bytes: Uint8Array, at: number): Promise<void> {
  for (let from = 0; from < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, from, bytes.length - from, at + from);
    if (bytesWritten === 0) throw new Error("nothing more can be written");
    from += bytesWritten;
  }
}
