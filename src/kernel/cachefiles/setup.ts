// SPDX-License-Identifier: Apache-2.0
// Opens /dev/cachefiles and binds a cache directory to it in on-demand mode, turning each
// refusal of the kernel into one sentence that says what to do.
// Source: Documentation/filesystems/caching/cachefiles.rst "Configuration";
// errnos as seen on 6.1 and 6.12 (kernel-notes/cachefiles-setup.md).

import { constants as fsConstants } from "node:fs";
import { DaemonError, type Fault } from "../../errors.ts";
import type { Native } from "../../platform/native.ts";
import { encodeCommand } from "./codec.ts";

/** Percentages of the cache's filesystem, 0 <= stop < cull < run < 100 each (kernel: 1, 5, 7). */
export interface CullLimits {
  readonly brun: number;
  readonly bcull: number;
  readonly bstop: number;
  readonly frun: number;
  readonly fcull: number;
  readonly fstop: number;
}

export const KERNEL_CULL_LIMITS: CullLimits = {
  brun: 7,
  bcull: 5,
  bstop: 1,
  frun: 7,
  fcull: 5,
  fstop: 1,
};

export interface CachefilesSetup {
  readonly devicePath: string;
  readonly cacheDir: string;
  readonly tag: string;
  readonly limits: CullLimits;
}

/** Returns the bound device's fd, which the caller owns. Faults: device_*, door_unsupported, cache_dir_unsuitable. */
export function openBoundDevice(native: Native, setup: CachefilesSetup): number {
  const fd = openDevice(native, setup.devicePath);
  try {
    for (const command of limitCommands(setup.limits)) native.write(fd, encodeCommand(command));
    native.write(fd, encodeCommand(`dir ${setup.cacheDir}`));
    native.write(fd, encodeCommand(`tag ${setup.tag}`));
    bind(native, fd, setup);
    return fd;
  } catch (error) {
    native.close(fd);
    throw error;
  }
}

function openDevice(native: Native, path: string): number {
  try {
    return native.open(path, fsConstants.O_RDWR | fsConstants.O_NONBLOCK);
  } catch (error) {
    throw translate(error, (errnoName) => {
      if (errnoName === "ENOENT" || errnoName === "ENXIO" || errnoName === "ENODEV") {
        return { code: "device_missing", path };
      }
      if (errnoName === "EBUSY") return { code: "device_busy", path };
      if (errnoName === "EACCES" || errnoName === "EPERM") return { code: "device_denied", path };
      return undefined;
    });
  }
}

function bind(native: Native, fd: number, setup: CachefilesSetup): void {
  try {
    native.write(fd, encodeCommand("bind ondemand"));
  } catch (error) {
    const path = setup.cacheDir;
    throw translate(error, (errnoName) => {
      switch (errnoName) {
        case "EINVAL":
          return {
            code: "door_unsupported",
            path: setup.devicePath,
            detail:
              "this kernel's cachefiles has no on-demand mode (or the cache is on an idmapped mount)",
          };
        case "EOPNOTSUPP":
          return {
            code: "cache_dir_unsuitable",
            path,
            detail:
              "its filesystem cannot hold the cache (tmpfs, overlayfs, network and shared filesystems cannot)",
          };
        case "ENOENT":
          return { code: "cache_dir_unsuitable", path, detail: "no such directory" };
        case "ENOTDIR":
          return { code: "cache_dir_unsuitable", path, detail: "not a directory" };
        case "EROFS":
          return { code: "cache_dir_unsuitable", path, detail: "its filesystem is read-only" };
        case "EBUSY":
          return { code: "cache_dir_unsuitable", path, detail: "another cache is using it" };
        default:
          return { code: "cache_dir_unsuitable", path, detail: `bind: ${errnoName}` };
      }
    });
  }
}

function translate(error: unknown, map: (errnoName: string) => Fault | undefined): unknown {
  if (!(error instanceof DaemonError) || error.fault.code !== "syscall_failed") return error;
  const fault = map(error.fault.errnoName);
  return fault === undefined ? error : new DaemonError(fault, { cause: error });
}

/**
 * The kernel checks stop < cull < run on every single command, against the values it has then:
 * first whatever widens the range, then cull, then whatever narrows it.
 */
export function limitCommands(limits: CullLimits): string[] {
  const commands: string[] = [];
  for (const kind of ["b", "f"] as const) {
    const run = { now: KERNEL_CULL_LIMITS[`${kind}run`], want: limits[`${kind}run`] };
    const stop = { now: KERNEL_CULL_LIMITS[`${kind}stop`], want: limits[`${kind}stop`] };
    const runFirst = run.want > run.now;
    const stopFirst = stop.want < stop.now;
    if (runFirst) commands.push(`${kind}run ${run.want}%`);
    if (stopFirst) commands.push(`${kind}stop ${stop.want}%`);
    commands.push(`${kind}cull ${limits[`${kind}cull`]}%`);
    if (!runFirst) commands.push(`${kind}run ${run.want}%`);
    if (!stopFirst) commands.push(`${kind}stop ${stop.want}%`);
  }
  return commands;
}

/** EROFS over fscache reads compressed files since Linux 6.9; before, reading them fails EOPNOTSUPP. */
export function servesCompressed(kernelRelease: string): boolean {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(kernelRelease) ?? [];
  const version = Number(major) * 1000 + Number(minor);
  return version >= 6009;
}
