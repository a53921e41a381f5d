// SPDX-License-Identifier: Apache-2.0
// What a failed system call is called, whoever made it.

import { DaemonError } from "../errors.ts";

/** Of a fault of the addon, or an error of Node. */
export function errnoNameOf(error: unknown): string | undefined {
  if (error instanceof DaemonError) {
    return error.fault.code === "syscall_failed" ? error.fault.errnoName : undefined;
  }
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}
