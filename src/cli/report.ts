// SPDX-License-Identifier: Apache-2.0
// How a command ends badly: one line on stderr, a hint below it, an exit status.

import { RemoteError } from "../control/client.ts";
import { DaemonError, ERROR_POLICY } from "../errors.ts";

/** Prints what went wrong and returns the exit status for it. */
export function reportError(error: unknown): number {
  const { code, message, hint } = describe(error);
  process.stderr.write(`erofsd: ${message}\n${hint === "" ? "" : `hint: ${hint}\n`}`);
  return exitCodeOf(code);
}

function describe(error: unknown): { code: string; message: string; hint: string } {
  if (error instanceof RemoteError) {
    const { code, message, hint = "" } = error.failure;
    return { code, message, hint };
  }
  if (error instanceof DaemonError) {
    return { code: error.fault.code, message: error.message, hint: error.policy.hint };
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { code: "internal", message: text, hint: ERROR_POLICY.internal.hint };
}

function exitCodeOf(code: string): number {
  const entry = Object.entries(ERROR_POLICY).find(([known]) => known === code);
  return entry?.[1].exitCode ?? 1;
}
