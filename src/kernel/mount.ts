// SPDX-License-Identifier: Apache-2.0
// Mounting and unmounting: the system calls through ffi, since this is a cold path. Never called in
// the daemon itself, only in a child of it (mount-child.ts) or the command line: mount(2) blocks its
// process, unkillably, until the daemon has answered. Source: fsopen(2), fsconfig(2), fsmount(2),
// move_mount(2), umount2(2); call numbers are the same on every architecture (asm-generic/unistd.h).

import { closeSync, readSync } from "node:fs";
import ffi from "ffi-napi";
import ref from "ref-napi";
import { DaemonError } from "../errors.ts";
import { type LoopDevice, attachLoop } from "./loop-device.ts";
import { checked } from "./syscall.ts";

const SYS_MOVE_MOUNT = 429;
const SYS_FSOPEN = 430;
const SYS_FSCONFIG = 431;
const SYS_FSMOUNT = 432;

const FSOPEN_CLOEXEC = 1;
const FSMOUNT_CLOEXEC = 1;
const FSCONFIG_SET_FLAG = 0;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MOUNT_ATTR_RDONLY = 1;
const AT_FDCWD = -100;
const MS_BIND = 4096;
const MNT_DETACH = 2;

// syscall(2) is variadic; one declaration for each call's arguments.
const { syscall: fsopen } = ffi.Library(null, { syscall: ["long", ["long", "string", "int"]] });
const { syscall: fsconfig } = ffi.Library(null, {
  syscall: ["long", ["long", "int", "int", "string", "string", "int"]],
});
const { syscall: fsmount } = ffi.Library(null, {
  syscall: ["long", ["long", "int", "int", "int"]],
});
const { syscall: moveMount } = ffi.Library(null, {
  syscall: ["long", ["long", "int", "string", "int", "string", "int"]],
});
const libc = ffi.Library(null, {
  mount: ["int", ["string", "string", "pointer", "ulong", "pointer"]],
  umount2: ["int", ["string", "int"]],
});

/** What the kernel asks its cachefiles for. */
export interface FscacheImage {
  readonly fsid: string;
  readonly domainId: string;
  /** Names for the extra devices, in the superblock's order. */
  readonly devices: readonly string[];
}

/** What the kernel reads by itself; no loop device comes between. */
export interface FileImage {
  readonly primary: string;
  /** In the superblock's order. */
  readonly devices: readonly string[];
}

/**
 * Mounts an EROFS image read-only at `target`. Over fscache it blocks until the daemon has
 * answered. Fault: syscall_failed, whose detail holds what the kernel said about it.
 */
export function mountErofs(image: FscacheImage | FileImage, target: string): void {
  const mounted = detachedMount(image);
  try {
    const flags = MOVE_MOUNT_F_EMPTY_PATH;
    const moved = moveMount(SYS_MOVE_MOUNT, mounted, "", AT_FDCWD, target, flags);
    checked("move_mount", moved, () => target);
  } finally {
    closeSync(mounted);
  }
}

/**
 * Mounts an image's files: as they are where this kernel can, else through loop devices; says
 * which. `target` undefined: nowhere, and lets go of it. Fault: syscall_failed.
 */
export function mountFiles(image: FileImage, target: string | undefined): "file" | "loop" {
  try {
    mountOrTry(image, target);
    return "file";
  } catch (error) {
    if (!isNotBlockDevice(error)) throw error;
  }
  mountThroughLoop(image, target);
  return "loop";
}

/** As mountFiles does where it must. */
export function mountThroughLoop(image: FileImage, target: string | undefined): void {
  const loops: LoopDevice[] = [];
  try {
    const attached = (file: string): string => {
      const loop = attachLoop(file);
      loops.push(loop);
      return loop.path;
    };
    const primary = attached(image.primary);
    mountOrTry({ primary, devices: image.devices.map(attached) }, target);
  } finally {
    for (const loop of loops) loop.close();
  }
}

/** `target` undefined: mounts it nowhere, and lets go of it. Fault: syscall_failed. */
export function mountOrTry(image: FscacheImage | FileImage, target: string | undefined): void {
  if (target === undefined) closeSync(detachedMount(image));
  else mountErofs(image, target);
}

function isNotBlockDevice(error: unknown): boolean {
  const fault = error instanceof DaemonError ? error.fault : undefined;
  return fault?.code === "syscall_failed" && fault.errnoName === "ENOTBLK";
}

function detachedMount(image: FscacheImage | FileImage): number {
  const context = checked("fsopen", fsopen(SYS_FSOPEN, "erofs", FSOPEN_CLOEXEC));
  try {
    configure(context, FSCONFIG_SET_FLAG, "ro", null);
    for (const [key, value] of optionsOf(image))
      configure(context, FSCONFIG_SET_STRING, key, value);
    configure(context, FSCONFIG_CMD_CREATE, null, null);
    const made = fsmount(SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY);
    return checked("fsmount", made);
  } finally {
    closeSync(context);
  }
}

function optionsOf(image: FscacheImage | FileImage): [string, string][] {
  const devices = image.devices.map((device): [string, string] => ["device", device]);
  if ("primary" in image) return [["source", image.primary], ...devices];
  return [["source", "none"], ["fsid", image.fsid], ["domain_id", image.domainId], ...devices];
}

function configure(
  context: number,
  command: number,
  key: string | null,
  value: string | null,
): void {
  const result = fsconfig(SYS_FSCONFIG, context, command, key, value, 0);
  checked("fsconfig", result, () => kernelMessages(context));
}

/** What the kernel has to say about a failed step: fsopen(2) "Message retrieval interface". */
function kernelMessages(context: number): string {
  const messages: string[] = [];
  const buffer = Buffer.alloc(4096);
  for (;;) {
    try {
      const length = readSync(context, buffer);
      if (length <= 0) break;
      messages.push(buffer.toString("utf8", 0, length).trim());
    } catch {
      break; // ENODATA: no more of them
    }
  }
  return messages.join("; ");
}

/** Makes what is mounted at `source` visible at `target` too. */
export function bindMount(source: string, target: string): void {
  const result = libc.mount(source, target, ref.NULL, MS_BIND, ref.NULL);
  checked("mount", result, () => target);
}

/** Unmounts `target`; `lazy` detaches it now and lets its last user finish. */
export function unmount(target: string, options: { lazy: boolean }): void {
  const result = libc.umount2(target, options.lazy ? MNT_DETACH : 0);
  checked("umount2", result, () => target);
}
