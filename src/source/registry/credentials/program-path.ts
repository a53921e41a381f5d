// SPDX-License-Identifier: Apache-2.0
// Where a credential program is: the first in PATH, as a shell would find it, but never on a
// mount of ours. Starting one from there would wait for a page that only we can fetch, and we
// would fetch it only after the program had answered.

import { constants } from "node:fs";
import { access, readFile, realpath } from "node:fs/promises";
import { isAbsolute, join } from "node:path";

/** Its absolute path. Rejects when there is none; the reason names directories, not secrets. */
export async function findProgram(
  name: string,
  searchPath: string,
  ownMounts: () => Promise<readonly string[]>,
): Promise<string> {
  const mounts = await ownMounts();
  const isOurs = (path: string): boolean =>
    mounts.some((mount) => path === mount || path.startsWith(mount === "/" ? "/" : `${mount}/`));
  let refused = "";
  for (const directory of searchPath.split(":")) {
    if (!isAbsolute(directory)) continue;
    const path = join(directory, name);
    if (isOurs(path)) {
      refused = `; ${directory} in PATH is a mount of erofsd itself and not looked into`;
      continue;
    }
    const real = await realpath(path).catch(() => undefined);
    if (real === undefined) continue;
    if (isOurs(real)) {
      refused = `; ${path} leads to a mount of erofsd itself and is not run`;
      continue;
    }
    const mayRun = await access(real, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (mayRun) return path;
  }
  throw new Error(`it is not in PATH${refused}`);
}

/** Mount points of EROFS over fscache, which no other daemon than this one can serve. */
export async function ownMountPoints(): Promise<readonly string[]> {
  return parseMountInfo(await readFile("/proc/self/mountinfo", "utf8"));
}

/** proc_pid_mountinfo(5): blanks in paths are written as octal. */
export function parseMountInfo(text: string): readonly string[] {
  const points: string[] = [];
  for (const line of text.split("\n")) {
    const [before = "", after = ""] = line.split(" - ", 2);
    const [type, , superOptions = ""] = after.split(" ");
    const point = before.split(" ")[4];
    if (type !== "erofs" || point === undefined || !/(?:^|,)fsid=/.test(superOptions)) continue;
    points.push(
      point.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))),
    );
  }
  return points;
}
