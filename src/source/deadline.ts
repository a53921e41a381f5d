// SPDX-License-Identifier: Apache-2.0
// Bounds one fetch: by its deadline, by its caller's signal and by the source being closed.
// The promise settles as soon as one of them says so, whether or not the work below noticed.

import { setMaxListeners } from "node:events";
import { DaemonError } from "../errors.ts";
import { type Clock, cancelledBy } from "../platform/clock.ts";

export interface Bounds {
  readonly clock: Clock;
  /** Absolute, on `clock`. */
  readonly deadlineMs: number;
  /** Any of them ends the work; their reason becomes the rejection. */
  readonly signals: readonly AbortSignal[];
  /** Names the work in deadline_exceeded. */
  readonly what: string;
}

/** Runs `work` with a signal that follows the bounds. Leaves no timer and no listener behind. */
export async function withBounds<T>(
  bounds: Bounds,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { clock, deadlineMs, signals, what } = bounds;
  const timeoutMs = Math.max(0, Math.round(deadlineMs - clock.nowMs()));
  const scope = new AbortController();
  const tooLate = (): void => {
    scope.abort(new DaemonError({ code: "deadline_exceeded", what, timeoutMs }));
  };
  const follow = (): void => {
    const aborted = signals.find((signal) => signal.aborted);
    if (aborted !== undefined) scope.abort(cancelledBy(aborted));
  };
  for (const signal of signals) {
    // As many as like may be bound to one signal.
    setMaxListeners(0, signal);
    signal.addEventListener("abort", follow, { once: true });
  }
  follow();
  if (timeoutMs === 0) tooLate();
  const cancelTimer = clock.after(timeoutMs, tooLate);
  try {
    return await raceAbort(scope.signal, work);
  } finally {
    cancelTimer();
    for (const signal of signals) signal.removeEventListener("abort", follow);
  }
}

function raceAbort<T>(signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  if (signal.aborted) return Promise.reject(cancelledBy(signal));
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(cancelledBy(signal)), { once: true });
    work(signal).then(resolve, reject);
  });
}
