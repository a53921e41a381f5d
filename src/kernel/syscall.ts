// SPDX-License-Identifier: Apache-2.0
// What a system call made through ffi has answered.

import { constants } from "node:os";
import ffi from "ffi-napi";
import { DaemonError } from "../errors.ts";

/** Node does not know all of them. ENOTBLK: a file was given where EROFS takes block devices alone. */
const ERRNOS: Readonly<Record<string, number>> = { ...constants.errno, ENOTBLK: 15 };

/** The value, or the fault syscall_failed. errno must be read before anything else runs. */
export function checked(syscall: string, result: number | string, detail?: () => string): number {
  const value = Number(result);
  if (value >= 0) return value;
  const errno = ffi.errno();
  const errnoName =
    Object.entries(ERRNOS).find(([, number]) => number === errno)?.[0] ?? `E${errno}`;
  throw new DaemonError({
    code: "syscall_failed",
    syscall,
    errno,
    errnoName,
    detail: detail?.() ?? "",
  });
}
