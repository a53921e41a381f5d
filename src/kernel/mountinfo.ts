// SPDX-License-Identifier: Apache-2.0
// What is mounted in this process's mount namespace, as /proc/self/mountinfo tells it (proc(5)).

import { readFile } from "node:fs/promises";

export interface MountEntry {
  readonly mountPoint: string;
  /** Of the filesystem: which of its directories is shown there; `/` unless it is a bind mount of another. */
  readonly root: string;
  readonly fsType: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

export async function listMounts(): Promise<MountEntry[]> {
  return parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
}

/** Parses mountinfo's lines; malformed ones are left out. */
export function parseMountinfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split("\n")) {
    const [left, right] = line.split(" - ", 2);
    const [, , , root, mountPoint] = left?.split(" ") ?? [];
    const [fsType, source, superOptions] = right?.split(" ") ?? [];
    if (root === undefined || mountPoint === undefined || fsType === undefined) continue;
    if (source === undefined || superOptions === undefined) continue;
    entries.push({
      mountPoint: unescapeOctal(mountPoint),
      root: unescapeOctal(root),
      fsType,
      source: unescapeOctal(source),
      superOptions: superOptions.split(",").map(unescapeOctal),
    });
  }
  return entries;
}

/** Of an EROFS mount over fscache: what it was mounted by. */
export interface FscacheName {
  readonly fsid: string;
  readonly domainId: string | undefined;
}

/** Undefined for every other mount. */
export function fscacheNameOf({ fsType, superOptions }: MountEntry): FscacheName | undefined {
  const option = (name: string): string | undefined =>
    superOptions.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1);
  const fsid = option("fsid");
  if (fsType !== "erofs" || fsid === undefined) return undefined;
  return { fsid, domainId: option("domain_id") };
}

function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}
