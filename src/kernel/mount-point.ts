// SPDX-License-Identifier: Apache-2.0
// Whether something may be mounted at a path. Never asked in the daemon: the path may lead through
// one of its own mounts.

import { realpath, stat } from "node:fs/promises";
import { isAbsolute } from "node:path";
import { DaemonError } from "../errors.ts";
import { listMounts } from "./mountinfo.ts";

export const MOUNT_POINT_HINT =
  "take a directory that nothing is mounted on; `erofsd ps` and `findmnt` list what is";

/** Its real path. Fault: request_invalid, of the field `mountPoint`, which names the path. */
export async function checkMountPoint(path: string): Promise<string> {
  if (!isAbsolute(path)) throw unfit(path, "is no absolute path");
  let target: string;
  try {
    if (!(await stat(path)).isDirectory()) throw unfit(path, "is no directory");
    target = await realpath(path);
  } catch (error) {
    if (error instanceof DaemonError) throw error;
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    const isMissing = code === "ENOENT" || code === "ENOTDIR";
    throw unfit(path, isMissing ? "does not exist" : `cannot be looked at (${code})`);
  }
  const there = (await listMounts()).findLast(({ mountPoint }) => mountPoint === target);
  if (there === undefined) return target;
  throw unfit(path, `is in use: ${there.fsType} is mounted there`);
}

/** What is wrong with a mount point, as one error. */
export function unfit(path: string, problem: string): DaemonError {
  const detail = `${path} ${problem}`;
  const fault = { code: "request_invalid", field: "mountPoint", detail } as const;
  return new DaemonError({ ...fault, hint: MOUNT_POINT_HINT });
}
