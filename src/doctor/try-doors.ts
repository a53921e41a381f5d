// SPDX-License-Identifier: Apache-2.0
// Each door tried on a small image, in a directory of its own that is gone afterwards. Nothing is
// mounted anywhere: the kernel makes the mount, and lets go of it.

import { tryFull, tryMountingIn } from "../doors.ts";
import type { Trial } from "../kernel/cachefiles/trial.ts";
import { openGroup } from "../kernel/fanotify/setup.ts";

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
