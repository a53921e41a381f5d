// SPDX-License-Identifier: Apache-2.0
// Which door the daemon opens to the kernel: the configured one, or the first that is there.

import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Config } from "./config/config.ts";
import { DaemonError, asDaemonError, invariant } from "./errors.ts";
import { encodeCommand } from "./kernel/cachefiles/codec.ts";
import { CachefilesSession } from "./kernel/cachefiles/session.ts";
import { openBoundDevice } from "./kernel/cachefiles/setup.ts";
import { tryCachefiles } from "./kernel/cachefiles/trial.ts";
import { FanotifySession } from "./kernel/fanotify/session.ts";
import { parseOpenPath } from "./kernel/fanotify/names.ts";
import {
  type OpenGroup,
  type TryMounting,
  adoptGroup,
  lockFiles,
  openGroup,
  unprepared,
  withTrialImage,
} from "./kernel/fanotify/setup.ts";
import type { LeftFile } from "./kernel/fanotify/left-files.ts";
import { FullSession } from "./kernel/full/session.ts";
import type { HeldFds } from "./kernel/keeper.ts";
import { TRIAL_MS, startMountChild } from "./kernel/mount-child.ts";
import { listMounts } from "./kernel/mountinfo.ts";
import type { KernelDoor } from "./kernel/transport.ts";
import { type Clock, systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";

/** A door with what a status tells of it. */
export interface CountingDoor extends KernelDoor {
  readonly objectCount: number;
  /** Of what a daemon before us left open nothing is unknown any more. */
  areAllKnown(): Promise<boolean>;
  /** Somebody would miss the door's fds, were they gone. */
  isNeeded(): Promise<boolean>;
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
  | {
      readonly kind: "cachefiles";
      readonly door: CachefilesSession;
      /** One command to the bound device. Fault: syscall_failed. */
      readonly command: (text: string) => void;
    }
  | { readonly kind: "fanotify"; readonly door: FanotifySession }
  | { readonly kind: "full"; readonly door: FullSession }
);

export interface DoorParts {
  readonly config: Config;
  readonly native: Native;
  readonly log: Log;
  /** What a daemon before us left; the door's from now on. */
  readonly held: HeldFds;
  /** Numbers of accesses that are unanswered, kept from being given again. */
  readonly occupied?: ReadonlySet<number> | undefined;
  /** Told how many objects the kernel has open, whenever that changes. */
  readonly onObjects: (count: number) => void;
}

/**
 * The cache directory and its state must have been looked through. A door that a daemon before us
 * left open is taken up, whatever is configured. Faults: no_door when none is there; else those of
 * the door that was asked for.
 */
export async function openDoor(parts: DoorParts): Promise<OpenDoor> {
  const { config, native, held, log } = parts;
  const { door } = config.kernel;
  const left = held.cachefiles !== undefined ? "cachefiles" : held.fanotify && "fanotify";
  if (left !== undefined && door !== "auto" && door !== left) {
    log.warn({}, `mounts of the ${left} door are left: served until all are unmounted`);
  }
  if (held.cachefiles !== undefined) return cachefilesDoor(parts, held.cachefiles);
  if (held.fanotify !== undefined) {
    return adoptFanotify(parts, { groupFd: held.fanotify, journalFd: held.journal });
  }
  switch (door) {
    case "cachefiles":
      return openCachefiles(parts);
    case "fanotify":
      return openFanotify(parts);
    case "full":
      return { kind: "full", door: await openFull(config, native, log), fds: {} };
    case "auto":
      return openFirst(parts);
    default:
      throw new Error(`unreachable: ${JSON.stringify(door satisfies never)}`);
  }
}

async function openFirst(parts: DoorParts): Promise<OpenDoor> {
  let cachefiles: DaemonError;
  try {
    await tryDevice(parts);
    return openCachefiles(parts);
  } catch (error) {
    // One that is busy or forbidden is there: taking the other would hide that.
    if (!isAbsent(error)) throw error;
    cachefiles = error;
  }
  try {
    return await openFanotify(parts);
  } catch (error) {
    if (!isAbsent(error)) throw error;
    return openLast(parts, { cachefiles, fanotify: error });
  }
}

async function openLast(
  { config, native, log }: DoorParts,
  why: { cachefiles: DaemonError; fanotify: DaemonError },
): Promise<OpenDoor> {
  const reasons = { cachefiles: why.cachefiles.message, fanotify: why.fanotify.message };
  try {
    const door = await openFull(config, native, log);
    log.warn(
      reasons,
      "no door to load images on demand: each is fetched whole before it is mounted",
    );
    return { kind: "full", door, fds: {} };
  } catch (error) {
    if (!(error instanceof DaemonError) || error.fault.code !== "full_unsupported") throw error;
    throw new DaemonError({ code: "no_door", ...reasons, full: error.message }, { cause: error });
  }
}

/** A kernel may have the device, and an EROFS that does not use it. */
async function tryDevice({ config, native, log }: DoorParts): Promise<void> {
  const directory = join(config.cache.dir, "trial");
  await mkdir(directory, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
    throw unprepared(error, config.cache.dir);
  });
  try {
    await tryCachefiles({ native, clock, log, directory }, config.kernel.device);
  } catch (error) {
    // Of anything else opening it tells, with the directory that is configured.
    if (isAbsent(error)) throw error;
  } finally {
    await rm(directory, { recursive: true, force: true });
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
  const command = (text: string) => void native.write(deviceFd, encodeCommand(text));
  return { kind: "cachefiles", door, command, fds: { cachefiles: deviceFd } };
}

async function openFanotify(parts: DoorParts): Promise<OpenDoor> {
  const { config, native, log } = parts;
  const cacheDir = config.cache.dir;
  const opened = await openGroup(native, { cacheDir, tryMounting: tryMountingIn(clock, false) });
  const left = (await listMounts()).filter(
    ({ source }) => parseOpenPath(source, cacheDir)?.isWhole === false,
  );
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
  { config, native, log, onObjects, occupied }: DoorParts,
  opened: OpenGroup & { readonly left?: readonly LeftFile[] },
): OpenDoor {
  const door = new FanotifySession({
    native,
    clock,
    log,
    cacheDir: config.cache.dir,
    limits: config.cache,
    readTimeoutMs: config.limits.read_timeout,
    pid: process.pid,
    onObjects,
    occupied,
    ...opened,
  });
  return { kind: "fanotify", door, fds: { fanotify: opened.groupFd, journal: opened.journal.fd } };
}

/** Faults: full_unsupported, cache_dir_unsuitable. */
export async function openFull(config: Config, native: Native, log: Log): Promise<FullSession> {
  const cacheDir = config.cache.dir;
  let session: FullSession | undefined;
  await tryFull(native, cacheDir, (lockFd) => {
    const limits = config.cache;
    const readTimeoutMs = config.limits.read_timeout;
    session = new FullSession({ native, clock, log, lockFd, cacheDir, limits, readTimeoutMs });
  });
  invariant(session !== undefined, "a door that was tried is open");
  return session;
}

/** Resolves with how whole images are mounted here; whoever it tells the lock's fd then owns it. */
export async function tryFull(
  native: Native,
  cacheDir: string,
  onTried: (lockFd: number) => void,
): Promise<string> {
  const lockFd = await lockFiles(native, cacheDir);
  try {
    const how = await withTrialImage(cacheDir, tryMountingIn(clock, true));
    onTried(lockFd);
    return how;
  } catch (error) {
    native.close(lockFd);
    const { message } = asDaemonError(error);
    const detail = `an EROFS image cannot be mounted from a file: ${message}`;
    throw new DaemonError({ code: "full_unsupported", detail }, { cause: error });
  }
}

/** In a child: mounting may block its process. */
export function tryMountingIn(by: Clock, mayLoop: boolean): TryMounting {
  return async (primary) => {
    const child = startMountChild(by);
    try {
      const image = { primary, devices: [] };
      return await child.carryOut({ kind: "mount-files", image, mayLoop }, TRIAL_MS);
    } finally {
      child.close();
    }
  };
}

/** It is not there, or may not be used as things are. */
function isAbsent(error: unknown): error is DaemonError {
  if (!(error instanceof DaemonError)) return false;
  const { code } = error.fault;
  return ["device_missing", "door_unsupported", "fanotify_unsupported"].includes(code);
}
