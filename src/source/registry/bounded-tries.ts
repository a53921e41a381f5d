// SPDX-License-Identifier: Apache-2.0
// One fetch's tries within its caller's bounds.

import { DaemonError } from "../../errors.ts";
import { type Bounds, withBounds } from "../deadline.ts";
import { type RetryHints, type RetryOptions, withRetries } from "./retry.ts";

export interface BoundedTries
  extends Bounds,
    Omit<RetryOptions, "clock" | "deadlineMs" | "signal" | "pause"> {
  /** As in RetryOptions; rejects when the signal aborts. */
  readonly pause: (delayMs: number, signal: AbortSignal) => Promise<void>;
}

export interface OneTry {
  readonly hints: RetryHints;
  readonly signal: AbortSignal;
  /** Called when a request is made: until then it still waits because of what the last one met. */
  readonly began: () => void;
}

/**
 * Runs `attempt` as withRetries() does, within `bounds`. When time is up while it waits to try
 * again, it rejects with what the last try met, which says more than that its time is over; so it
 * does in the middle of a try, unless the last one was not answered either.
 */
export async function boundedTries<T>(
  bounds: BoundedTries,
  attempt: (one: OneTry) => Promise<T>,
): Promise<T> {
  let failure: DaemonError | undefined;
  let isTrying = false;
  const began = (): void => {
    isTrying = true;
  };
  try {
    return await withBounds(bounds, (signal) => {
      const options: RetryOptions = {
        ...bounds,
        signal,
        onFailure: (error, delayMs, tried) => {
          failure = error;
          isTrying = false;
          bounds.onFailure?.(error, delayMs, tried);
        },
        pause: (delayMs) => bounds.pause(delayMs, signal),
      };
      return withRetries(options, (hints) => attempt({ hints, signal, began }));
    });
  } catch (error) {
    const isLate = error instanceof DaemonError && error.fault.code === "deadline_exceeded";
    if (!isLate || failure === undefined) throw error;
    throw isTrying && failure.fault.code === "registry_timeout" ? error : failure;
  }
}
