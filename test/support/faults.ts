// SPDX-License-Identifier: Apache-2.0
// What a call failed with, as the fault's payload: tests compare codes and fields, never
// message texts.

import { DaemonError, type Fault } from "../../src/errors.ts";

/** The fault `run` throws. Anything else, and no throw at all, is an error. */
export function faultOf(run: () => unknown): Fault {
  try {
    run();
  } catch (error) {
    if (error instanceof DaemonError) return error.fault;
    throw error;
  }
  throw new Error("it did not throw");
}

/** The fault `work` rejects with. */
export async function faultFrom(work: Promise<unknown>): Promise<Fault> {
  try {
    await work;
  } catch (error) {
    if (error instanceof DaemonError) return error.fault;
    throw error;
  }
  throw new Error("it did not reject");
}
