// SPDX-License-Identifier: Apache-2.0
// Which door the daemon opens to the kernel: the configured one, or the first that is there.

import type { Config } from "./config/config.ts";
import { DaemonError } from "./errors.ts";
import { encodeCommand } from "./kernel/cachefiles/codec.ts";
import { CachefilesSession } from "./kernel/cachefiles/session.ts";
import { openBoundDevice } from "./kernel/cachefiles/setup.ts";
import { FanotifySession } from "./kernel/fanotify/session.ts";
import { isOpenPath } from "./kernel/fanotify/names.ts";
import { openGroup } from "./kernel/fanotify/setup.ts";
import type { KernelDoor } from "./kernel/transport.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";

/** A door with what a status tells of it. */
export interface CountingDoor extends KernelDoor {
  readonly objectCount: number;
  /** Looks whether the kernel still answers, and takes what it asks; `onFatal` when it does not. */
  probe(): void;
  /** Kernel messages taken, by kind, and the bytes that reads asked for. */
  readonly messages: {
    readonly open: number;
    readonly read: number;
    readonly readBytes: number;
    readonly close: number;
    readonly malformed: number;
  };
  readonly writes: { readonly writes: number; readonly writtenBytes: number };
}

export type OpenDoor =
  | {
      readonly kind: "cachefiles";
      readonly door: CachefilesSession;
      /** One command to the bound device. Fault: syscall_failed. */
      readonly command: (text: string) => void;
    }
  | { readonly kind: "fanotify"; readonly door: FanotifySession };

/**
 * The cache directory and its state must have been looked through. Faults: no_door when neither
 * is there; else those of the door that was asked for.
 */
export async function openDoor(config: Config, native: Native, log: Log): Promise<OpenDoor> {
  const { door } = config.kernel;
  if (door === "cachefiles") return openCachefiles(config, native, log);
  return door === "fanotify" ? openFanotify(config, native, log) : openFirst(config, native, log);
}

async function openFirst(config: Config, native: Native, log: Log): Promise<OpenDoor> {
  try {
    return openCachefiles(config, native, log);
  } catch (error) {
    // One that is busy or forbidden is there: taking the other would hide that.
    if (!isAbsent(error)) throw error;
    return await openFanotify(config, native, log).catch((other: unknown) => {
      throw noDoor(error, other);
    });
  }
}

function openCachefiles(config: Config, native: Native, log: Log): OpenDoor {
  const deviceFd = openBoundDevice(native, {
    devicePath: config.kernel.device,
    cacheDir: config.cache.dir,
    tag: config.cache.tag,
    limits: config.cache,
  });
  return {
    kind: "cachefiles",
    door: new CachefilesSession({ native, clock, log, deviceFd }),
    command: (text) => void native.write(deviceFd, encodeCommand(text)),
  };
}

async function openFanotify(config: Config, native: Native, log: Log): Promise<OpenDoor> {
  if (!config.kernel.allow_unsafe) throw new DaemonError({ code: "fanotify_unsafe" });
  const cacheDir = config.cache.dir;
  const { listMounts, tryMountingErofs } = await import("./kernel/mount.ts");
  const tryMounting = (primary: string): void => {
    tryMountingErofs({ primary, devices: [] });
  };
  const opened = await openGroup(native, { cacheDir, tryMounting });
  const own = { cacheDir, limits: config.cache, pid: process.pid };
  const door = new FanotifySession({ native, clock, log, ...opened, ...own });
  log.warn({}, new DaemonError({ code: "fanotify_unsafe" }).message);
  const left = (await listMounts()).filter(({ source }) => isOpenPath(source, cacheDir));
  if (left.length > 0) {
    log.error(
      { mounts: left.map(({ mountPoint }) => mountPoint) },
      "mounts of a daemon that is gone: unmount them, they may show zeros",
    );
  }
  return { kind: "fanotify", door };
}

function isAbsent(error: unknown): error is DaemonError {
  if (!(error instanceof DaemonError)) return false;
  return ["device_missing", "door_unsupported"].includes(error.fault.code);
}

function noDoor(cachefiles: DaemonError, other: unknown): unknown {
  if (!(other instanceof DaemonError)) return other;
  // A cache in the wrong place is to be mended first, whatever the kernel has.
  if (other.fault.code === "cache_dir_unsuitable") return other;
  const reasons = { cachefiles: cachefiles.message, fanotify: other.message };
  return new DaemonError({ code: "no_door", ...reasons }, { cause: other });
}
