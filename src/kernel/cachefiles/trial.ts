// SPDX-License-Identifier: Apache-2.0
// The door tried on a small image: its device bound, the image asked for and mounted. Nothing is
// mounted anywhere: the kernel makes the mount, and lets go of it.

import { DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import { trialImage } from "../fanotify/setup.ts";
import { TRIAL_MS, startMountChild } from "../mount-child.ts";
import type { KernelHandler, KernelObject } from "../transport.ts";
import { CachefilesSession } from "./session.ts";
import { KERNEL_CULL_LIMITS, openBoundDevice } from "./setup.ts";

const DOMAIN = "erofsd-trial";

export interface Trial {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** Empty, on the cache's filesystem. */
  readonly directory: string;
}

/** Resolves with what it was done with. Faults: device_*, door_unsupported, cache_dir_unsuitable. */
export async function tryCachefiles(trial: Trial, devicePath: string): Promise<string> {
  const { native, clock, log, directory: cacheDir } = trial;
  const limits = KERNEL_CULL_LIMITS;
  const deviceFd = openBoundDevice(native, { devicePath, cacheDir, tag: DOMAIN, limits });
  const session = new CachefilesSession({ native, clock, log, deviceFd });
  let failure: DaemonError | undefined;
  session.start(servingTrialImage(native), (error) => {
    failure = error;
  });
  const child = startMountChild(clock);
  try {
    const image = { fsid: DOMAIN, domainId: DOMAIN, devices: [] };
    await child.carryOut({ kind: "mount", image }, TRIAL_MS);
    return "an image was asked for and mounted";
  } catch (error) {
    if (failure !== undefined) throw failure;
    const detail = `its EROFS cannot be mounted over fscache: ${error instanceof Error ? error.message : String(error)}`;
    throw new DaemonError({ code: "door_unsupported", path: devicePath, detail }, { cause: error });
  } finally {
    child.close();
    await session.stop(new DaemonError({ code: "stopping" }));
  }
}

/** Whatever is opened is the trial image. */
function servingTrialImage(native: Native): KernelHandler {
  const image = trialImage();
  const bytes = native.allocateAligned(image.length);
  bytes.set(image);
  const fill = async (object: KernelObject): Promise<void> => {
    await object.dataExtents(image.length);
    await object.write(bytes, { bytesOffset: 0, length: image.length, fileOffset: 0 });
  };
  return {
    open(request) {
      request.accept(image.length);
    },
    read(request) {
      fill(request.object).then(
        () => {
          request.complete();
        },
        (error: unknown) => {
          const detail = error instanceof Error ? error.message : String(error);
          request.fail(new DaemonError({ code: "internal", detail }));
        },
      );
    },
    closed: () => undefined,
  };
}
