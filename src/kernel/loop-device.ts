// SPDX-License-Identifier: Apache-2.0
// Loop devices: for kernels that mount EROFS from block devices only. One goes by itself when
// nobody has it open or mounted any more. Blocks its process for a moment, like mount.ts.
// Source: loop(4), Linux include/uapi/linux/loop.h.

import { closeSync, openSync } from "node:fs";
import { constants } from "node:os";
import ffi from "ffi-napi";
import { DaemonError } from "../errors.ts";
import { checked } from "./syscall.ts";

const LOOP_CONFIGURE = 0x4c0a;
const LOOP_CTL_GET_FREE = 0x4c82;
const CONFIG_BYTES = 304;
const FLAGS_AT = 60;
const READ_ONLY_AND_AUTOCLEAR = 1 | 4;
/** Others take free devices too. */
const TRIES_MAX = 16;

const { ioctl: ioctlPointer } = ffi.Library(null, { ioctl: ["int", ["int", "ulong", "pointer"]] });
const { ioctl: ioctlNumber } = ffi.Library(null, { ioctl: ["int", ["int", "ulong", "long"]] });

export interface LoopDevice {
  readonly path: string;
  /** A mount of the device keeps it; without one it is gone. */
  close(): void;
}

/** Faults: syscall_failed; `open` when there are no loop devices. */
export function attachLoop(file: string): LoopDevice {
  const fileFd = open(file, "r");
  try {
    for (let tries = 1; ; tries += 1) {
      const path = `/dev/loop${freeNumber()}`;
      const fd = open(path, "r+");
      try {
        configure(fd, fileFd);
        return {
          path,
          close() {
            closeSync(fd);
          },
        };
      } catch (error) {
        closeSync(fd);
        const isTaken =
          error instanceof DaemonError &&
          error.fault.code === "syscall_failed" &&
          error.fault.errnoName === "EBUSY";
        if (!isTaken || tries >= TRIES_MAX) throw error;
      }
    }
  } finally {
    closeSync(fileFd);
  }
}

function freeNumber(): number {
  const control = open("/dev/loop-control", "r+");
  try {
    return checked("LOOP_CTL_GET_FREE", ioctlNumber(control, LOOP_CTL_GET_FREE, 0));
  } finally {
    closeSync(control);
  }
}

function configure(fd: number, fileFd: number): void {
  const config = Buffer.alloc(CONFIG_BYTES);
  config.writeUInt32LE(fileFd, 0);
  config.writeUInt32LE(READ_ONLY_AND_AUTOCLEAR, FLAGS_AT);
  checked("LOOP_CONFIGURE", ioctlPointer(fd, LOOP_CONFIGURE, config));
}

function open(path: string, flags: string): number {
  try {
    return openSync(path, flags);
  } catch (error) {
    const errnoName = error instanceof Error && "code" in error ? String(error.code) : "EIO";
    const [, errno = 5] =
      Object.entries(constants.errno).find(([name]) => name === errnoName) ?? [];
    const fault = {
      code: "syscall_failed",
      syscall: "open",
      errno,
      errnoName,
      detail: path,
    } as const;
    throw new DaemonError(fault, { cause: error });
  }
}
