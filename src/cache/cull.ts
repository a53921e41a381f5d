// SPDX-License-Identifier: Apache-2.0
// Deletes cached files of a live cache by asking the kernel, which alone knows what is in use.
// The kernel looks a name up in the calling process's working directory (fs/cachefiles/daemon.c,
// cachefiles_daemon_cull; kernel-notes/cachefiles-space-and-culling.md), so that is changed for
// the length of one system call: nothing else runs meanwhile, and nothing here uses relative paths.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { errnoNameOf } from "../platform/errno-name.ts";
import { listOrNone } from "../platform/list-directory.ts";
import { type ObjectFile, objectFile } from "./disk-names.ts";

export type Culled = "culled" | "absent" | "in use";

export interface CullParts {
  readonly cacheDir: string;
  /** One command to the bound device; throws a syscall_failed fault. */
  readonly command: (text: string) => void;
}

/** What is cached under one key, in whatever volume. `in use` when any of it is; the rest is gone. */
export async function cullKey(parts: CullParts, cookieKey: string): Promise<Culled> {
  let result: Culled = "absent";
  for (const volume of await listOrNone(join(parts.cacheDir, "cache"))) {
    if (!volume.startsWith("I")) continue;
    const file = objectFile(parts.cacheDir, { volumeKey: volume.slice(1), cookieKey });
    const culled = file === undefined ? "absent" : cullFile(parts, file);
    if (culled === "in use" || result === "absent") result = culled;
  }
  return result;
}

/** A volume that no image will use again, with all that is cached in it: it is 258 inodes, empty. */
export async function cullVolume(parts: CullParts, volumeKey: string): Promise<Culled> {
  const root = join(parts.cacheDir, "cache");
  const volume = join(root, `I${volumeKey}`);
  for (const fan of await listOrNone(volume)) {
    for (const name of await listOrNone(join(volume, fan))) {
      if (cullFile(parts, { directory: join(volume, fan), name }) === "in use") return "in use";
    }
  }
  const culled = cullFile(parts, { directory: root, name: `I${volumeKey}` });
  // The kernel only moves a directory out of the way.
  const graveyard = join(parts.cacheDir, "graveyard");
  for (const name of await listOrNone(graveyard)) {
    await rm(join(graveyard, name), { recursive: true, force: true });
  }
  return culled;
}

/** One file, or a directory that is not in use. */
export function cullFile(
  { command }: Pick<CullParts, "command">,
  { directory, name }: ObjectFile,
): Culled {
  const before = process.cwd();
  try {
    process.chdir(directory);
    command(`cull ${name}`);
    return "culled";
  } catch (error) {
    const code = errnoNameOf(error);
    if (code === "ENOENT") return "absent";
    if (code === "EBUSY") return "in use";
    throw error;
  } finally {
    process.chdir(before);
  }
}
