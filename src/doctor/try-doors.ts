// SPDX-License-Identifier: Apache-2.0
// Each door tried on a small image, in a directory of its own that is gone afterwards. Nothing is
// mounted anywhere: the kernel makes the mount, and lets go of it.

import { tryFull, tryMountingIn } from "../doors.ts";
import { openGroup } from "../kernel/fanotify/setup.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import type { Native } from "../platform/native.ts";

export interface Trial {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** Empty, on the cache's filesystem. */
  readonly directory: string;
}

/** Each resolves with what it was done with, and fails as opening the door would. */
export async function tryFanotify({ native, clock, directory }: Trial): Promise<string> {
  const tryMounting = tryMountingIn(clock, false);
  const { groupFd, lockFd } = await openGroup(native, { cacheDir: directory, tryMounting });
  native.close(groupFd);
  native.close(lockFd);
  return "a file was marked, asked about and mounted";
}

export async function tryWhole({ native, directory }: Trial): Promise<string> {
  const how = await tryFull(native, directory, (lockFd) => {
    native.close(lockFd);
  });
  return how === "loop" ? "mounted through a loop device" : "mounted from a file";
}
