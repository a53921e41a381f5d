// SPDX-License-Identifier: Apache-2.0
// What a thing failed with, as tests compare it: the fault's code, never its text.

import { type Code, DaemonError } from "../../src/errors.ts";

export function codeOf(error: unknown): Code | "not a DaemonError" {
  return error instanceof DaemonError ? error.fault.code : "not a DaemonError";
}

/** The code that `work` rejects with; "resolved" when it does not. */
export async function rejectionOf(work: Promise<unknown>): Promise<string> {
  return work.then(() => "resolved", codeOf);
}

/** The code that `run` throws; "returned" when it does not. */
export function thrownBy(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return codeOf(error);
  }
  return "returned";
}
