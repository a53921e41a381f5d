// SPDX-License-Identifier: Apache-2.0
// What a system call made through ffi has answered.

import { constants } from "node:os";
import ffi from "ffi-napi";
import { DaemonError } from "../errors.ts";

/** The value, or the fault syscall_failed. errno must be read before anything else runs. */
export function checked(syscall: string, result: number | string, detail?: () => string): number {
  const value = Number(result);
  if (value >= 0) return value;
  const errno = ffi.errno();
  const errnoName =
    Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `E${errno}`;
  throw new DaemonError({
    code: "syscall_failed",
    syscall,
    errno,
    errnoName,
    detail: detail?.() ?? "",
  });
}
