// SPDX-License-Identifier: Apache-2.0
// Where an image is mounted in this mount namespace.

import { readlink } from "node:fs/promises";
import { basename } from "node:path";
import { volumeKeyOf } from "./kernel/cachefiles/keys.ts";
import { cacheFileStart, isOpenPath } from "./kernel/fanotify/names.ts";
import type { MountEntry } from "./kernel/mount.ts";
import type { CookieName } from "./state/bindings.ts";

export async function mountsOf(
  name: CookieName,
  cacheDir: string,
  listEntries: () => Promise<readonly MountEntry[]> = listHere,
): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await listEntries()) {
    if (entry.fsType !== "erofs") continue;
    const isIt = isOpenPath(entry.source, cacheDir)
      ? await isFileOf(entry.source, name)
      : isKeyOf(entry, name);
    if (isIt) found.push(entry.mountPoint);
  }
  return found;
}

function isKeyOf({ superOptions }: MountEntry, { volumeKey, cookieKey }: CookieName): boolean {
  const option = (key: string): string | undefined =>
    superOptions.find((one) => one.startsWith(`${key}=`))?.slice(key.length + 1);
  const fsid = option("fsid");
  return fsid === cookieKey && volumeKeyOf(option("domain_id") ?? fsid) === volumeKey;
}

async function isFileOf(source: string, name: CookieName): Promise<boolean> {
  const target = await readlink(source).catch(() => "");
  return basename(target).startsWith(cacheFileStart(name));
}

/** Loaded late: it needs a compiled library. */
async function listHere(): Promise<readonly MountEntry[]> {
  const { listMounts } = await import("./kernel/mount.ts");
  return listMounts();
}
