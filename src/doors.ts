// SPDX-License-Identifier: Apache-2.0
// Which door the daemon opens to the kernel: the configured one, or the first that is there.

import type { Config } from "./config/config.ts";
import { DaemonError } from "./errors.ts";
import { CachefilesSession } from "./kernel/cachefiles/session.ts";
import { openBoundDevice } from "./kernel/cachefiles/setup.ts";
import { FanotifySession } from "./kernel/fanotify/session.ts";
import { isOpenPath } from "./kernel/fanotify/names.ts";
import type { LeftFile } from "./kernel/fanotify/left-files.ts";
import { type OpenGroup, adoptGroup, openGroup } from "./kernel/fanotify/setup.ts";
import type { HeldFds } from "./kernel/keeper.ts";
import type { KernelDoor } from "./kernel/transport.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";

/** A door with what a status tells of it. */
export interface CountingDoor extends KernelDoor {
  readonly objectCount: number;
  /** Of what a daemon before us left open nothing is unknown any more. */
  readonly areAllKnown: boolean;
  /** Somebody would miss the door's fds, were they gone. */
  readonly isNeeded: boolean;
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

/** With what the keeper is to hold of it. */
export type OpenDoor = { readonly fds: HeldFds } & (
  | { readonly kind: "cachefiles"; readonly door: CountingDoor }
  | { readonly kind: "fanotify"; readonly door: FanotifySession }
);

export interface DoorParts {
  readonly config: Config;
  readonly native: Native;
  readonly log: Log;
  /** What a daemon before us left; the door's from now on. */
  readonly held: HeldFds;
  /** Told how many objects the kernel has open, whenever that changes. */
  readonly onObjects: (count: number) => void;
}

/**
 * The cache directory and its state must have been looked through. A door that a daemon before us
 * left open is taken up, whatever is configured. Faults: no_door when neither is there; else those
 * of the door that was asked for.
 */
export async function openDoor(parts: DoorParts): Promise<OpenDoor> {
  const { config, held, log } = parts;
  const { door } = config.kernel;
  const left = held.cachefiles !== undefined ? "cachefiles" : held.fanotify && "fanotify";
  if (left !== undefined && door !== "auto" && door !== left) {
    log.warn({}, `mounts of the ${left} door are left: served until all are unmounted`);
  }
  if (held.cachefiles !== undefined) return cachefilesDoor(parts, held.cachefiles);
  if (held.fanotify !== undefined) {
    return await adoptFanotify(parts, { groupFd: held.fanotify, journalFd: held.journal });
  }
  if (door === "cachefiles") return openCachefiles(parts);
  return door === "fanotify" ? await openFanotify(parts) : await openFirst(parts);
}

async function openFirst(parts: DoorParts): Promise<OpenDoor> {
  try {
    return openCachefiles(parts);
  } catch (error) {
    // One that is busy or forbidden is there: taking the other would hide that.
    if (!isAbsent(error)) throw error;
    return await openFanotify(parts).catch((other: unknown) => {
      throw noDoor(error, other);
    });
  }
}

function openCachefiles(parts: DoorParts): OpenDoor {
  const { config, native } = parts;
  const deviceFd = openBoundDevice(native, {
    devicePath: config.kernel.device,
    cacheDir: config.cache.dir,
    tag: config.cache.tag,
    limits: config.cache,
  });
  return cachefilesDoor(parts, deviceFd);
}

function cachefilesDoor({ native, log, held, onObjects }: DoorParts, deviceFd: number): OpenDoor {
  const adopted = held.cachefiles !== undefined;
  const door = new CachefilesSession({ native, clock, log, deviceFd, adopted, onObjects });
  return { kind: "cachefiles", door, fds: { cachefiles: deviceFd } };
}

async function openFanotify(parts: DoorParts): Promise<OpenDoor> {
  const { config, native, log } = parts;
  const cacheDir = config.cache.dir;
  const { listMounts, tryMountingErofs } = await import("./kernel/mount.ts");
  const tryMounting = (primary: string): void => {
    tryMountingErofs({ primary, devices: [] });
  };
  const opened = await openGroup(native, { cacheDir, tryMounting });
  const left = (await listMounts()).filter(({ source }) => isOpenPath(source, cacheDir));
  if (left.length > 0) {
    log.error(
      { mounts: left.map(({ mountPoint }) => mountPoint) },
      "mounts of a daemon that is gone, and its keeper with it: unmount them, they may show zeros",
    );
  }
  return fanotifyDoor(parts, opened);
}

async function adoptFanotify(
  parts: DoorParts,
  fds: { groupFd: number; journalFd: number | undefined },
): Promise<OpenDoor> {
  const { config, native, log } = parts;
  return fanotifyDoor(parts, await adoptGroup(native, { cacheDir: config.cache.dir, log, ...fds }));
}

function fanotifyDoor(
  { config, native, log, onObjects }: DoorParts,
  opened: OpenGroup & { readonly left?: readonly LeftFile[] },
): OpenDoor {
  const cacheDir = config.cache.dir;
  const parts = { native, clock, log, cacheDir, limits: config.cache, pid: process.pid, onObjects };
  const door = new FanotifySession({ ...parts, ...opened });
  return { kind: "fanotify", door, fds: { fanotify: opened.groupFd, journal: opened.journal.fd } };
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
