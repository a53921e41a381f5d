// SPDX-License-Identifier: Apache-2.0
// From what people write (a mount point, or a name) to the image that the daemon knows.

import { readdir, realpath, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ask } from "../control/client.ts";
import { type ImageDetail, imageDetail, imagesAnswer } from "../control/image-schema.ts";
import { DaemonError } from "../errors.ts";
import { volumeKeyOf } from "../kernel/cachefiles/keys.ts";
import { stem } from "../kernel/fanotify/names.ts";
import { type MountEntry, listMounts } from "../kernel/mount.ts";

/** Faults: image_unknown, usage_invalid for a mount that is none of erofsd, those of `ask`. */
export async function findImage(socketPath: string, named: string): Promise<ImageDetail> {
  const target = await realpath(named).catch(() => undefined);
  const mount = (await listMounts()).findLast(({ mountPoint }) => mountPoint === target);
  const name = mount === undefined ? named : await fsidOf(socketPath, mount);
  const path = `/v1/images/${encodeURIComponent(name)}`;
  return ask(socketPath, { method: "GET", path, answer: imageDetail });
}

async function fsidOf(socketPath: string, mount: MountEntry): Promise<string> {
  const fsid = mount.superOptions.find((option) => option.startsWith("fsid="));
  if (fsid !== undefined) return fsid.slice("fsid=".length);
  const file = await cacheFileOf(mount);
  const { images } = await ask(socketPath, {
    method: "GET",
    path: "/v1/images",
    answer: imagesAnswer,
  });
  const found = images.find(({ fsid: cookieKey, domainId = "" }) =>
    file?.startsWith(`${stem({ volumeKey: volumeKeyOf(domainId), cookieKey })}-`),
  );
  if (found !== undefined) return found.fsid;
  const detail = `${mount.mountPoint} is no mount of an image that the daemon knows`;
  throw new DaemonError({ code: "usage_invalid", detail });
}

/** A mount from files names a link to its cache file, whose name says what it is of. */
async function cacheFileOf({ fsType, source }: MountEntry): Promise<string | undefined> {
  if (fsType !== "erofs" || !/\/fanotify\/open\/[^/]+$/.test(source)) return undefined;
  const directory = join(dirname(dirname(source)), "streams");
  const link = await stat(source).catch(() => undefined);
  for (const name of await readdir(directory).catch(() => [])) {
    const file = await stat(join(directory, name)).catch(() => undefined);
    if (file !== undefined && file.ino === link?.ino) return name;
  }
  return undefined;
}
