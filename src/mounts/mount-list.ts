// SPDX-License-Identifier: Apache-2.0
// Which of this machine's mounts are ours, and of what image each is: read from the kernel's own
// list every time, so it is right whoever mounts and unmounts.

import { readFile } from "node:fs/promises";
import type { DoorKind } from "../config/config.ts";
import { volumeKeyOf } from "../kernel/cachefiles/keys.ts";
import { parseOpenPath, parseStreamPath, stem, stemOfFile } from "../kernel/fanotify/names.ts";
import { type MountEntry, fscacheNameOf } from "../kernel/mountinfo.ts";
import type { Binding, CookieName } from "../state/bindings.ts";

export type KnownImage = CookieName & { readonly binding: Binding };

export interface OurMount {
  readonly mountPoint: string;
  /** Of the image: `/`, unless a directory of it was bound elsewhere. */
  readonly root: string;
  readonly door: DoorKind;
  /** What the kernel was told, over fscache. */
  readonly fsid: string | undefined;
  readonly domainId: string | undefined;
  /** Undefined: this daemon does not know it. */
  readonly image: KnownImage | undefined;
}

export interface MountListParts {
  readonly entries: readonly MountEntry[];
  readonly images: Iterable<KnownImage>;
  /** Files of another cache are another daemon's. Undefined: of any cache. */
  readonly cacheDir: string | undefined;
}

/** In the kernel's order. */
export async function listOurMounts(parts: MountListParts): Promise<OurMount[]> {
  const images = [...parts.images];
  const byName = new Map(images.map((image) => [idOf(image), image]));
  let byStem: Map<string, KnownImage> | undefined;
  const found: OurMount[] = [];
  for (const entry of parts.entries) {
    if (entry.fsType !== "erofs") continue;
    const { mountPoint, root } = entry;
    const name = fscacheNameOf(entry);
    if (name !== undefined) {
      const { fsid, domainId } = name;
      const volumeKey = volumeKeyOf(domainId ?? fsid);
      const image = byName.get(idOf({ volumeKey, cookieKey: fsid }));
      found.push({ mountPoint, root, door: "cachefiles", fsid, domainId, image });
      continue;
    }
    const file = await fileOf(entry, parts.cacheDir);
    if (file === undefined) continue;
    byStem ??= new Map(images.map((image) => [stem(image), image]));
    const image = byStem.get(stemOfFile(file.name));
    const door = file.isWhole ? "full" : "fanotify";
    found.push({ mountPoint, root, door, fsid: undefined, domainId: undefined, image });
  }
  return found;
}

/** True for a mount that some erofsd has made, or `mount -o fsid=`. */
export async function isOurMount(entry: MountEntry): Promise<boolean> {
  return (await listOurMounts({ entries: [entry], images: [], cacheDir: undefined })).length > 0;
}

async function fileOf({ source }: MountEntry, cacheDir: string | undefined) {
  const [, loop] = /^\/dev\/(loop\d+)$/.exec(source) ?? [];
  if (loop === undefined) return parseOpenPath(source, cacheDir);
  const path = `/sys/block/${loop}/loop/backing_file`;
  const backing = await readFile(path, "utf8").catch(() => "");
  return parseStreamPath(backing.trimEnd(), cacheDir);
}

function idOf({ volumeKey, cookieKey }: CookieName): string {
  return `${volumeKey}\0${cookieKey}`;
}
