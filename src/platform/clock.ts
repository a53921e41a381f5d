// SPDX-License-Identifier: Apache-2.0
// Time and chance as arguments: rooms get a Clock and a Random, never the globals,
// so that a test or a simulation can drive them.

import { setMaxListeners } from "node:events";
import { DaemonError } from "../errors.ts";

export interface Clock {
  /** Milliseconds on a monotonic clock; only differences mean anything. */
  nowMs(): number;
  /** Calls `run` once after `delayMs`; the returned function cancels it (harmless when it ran). */
  after(delayMs: number, run: () => void): () => void;
}

/** A number in [0, 1). */
export type Random = () => number;

const settled = Promise.resolve();
let turnMs: number | undefined;
const forgetTurn = (): void => {
  turnMs = undefined;
};

/**
 * Time stands still until what runs has ended or awaits: the kernel is asked once a turn, as asking
 * is a system call where the kernel does not map its clock (some virtual machines, UML).
 */
export const systemClock: Clock = {
  nowMs() {
    if (turnMs === undefined) {
      turnMs = performance.now();
      void settled.then(forgetTurn);
    }
    return turnMs;
  },
  after(delayMs, run) {
    const timer = setTimeout(run, delayMs);
    return () => {
      clearTimeout(timer);
    };
  },
};

/** Milliseconds on a clock that all processes share, until the machine starts anew. */
export const machineMs = (): number => Number(process.hrtime.bigint() / 1_000_000n);

/** Settles after `delayMs`, or rejects with `cancelled` as soon as `signal` aborts. */
export function sleep(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  return nap(clock, delayMs, signal).over;
}

/** A sleep that `wake` ends before its time. */
export function nap(
  clock: Clock,
  delayMs: number,
  signal: AbortSignal,
): { readonly over: Promise<void>; readonly wake: () => void } {
  // As many as like may sleep by one signal.
  setMaxListeners(0, signal);
  let wake = (): void => undefined;
  const over = new Promise<void>((resolve, reject) => {
    const aborted = (): void => {
      cancel();
      reject(cancelledBy(signal));
    };
    wake = () => {
      cancel();
      signal.removeEventListener("abort", aborted);
      resolve();
    };
    const cancel = clock.after(delayMs, wake);
    if (signal.aborted) aborted();
    else signal.addEventListener("abort", aborted, { once: true });
  });
  return { over, wake };
}

/** Resolves when `work` has ended, or after `limitMs`. */
export function within(clock: Clock, limitMs: number, work: Promise<unknown>): Promise<void> {
  return new Promise((resolve) => {
    const cancel = clock.after(limitMs, resolve);
    const ended = (): void => {
      cancel();
      resolve();
    };
    work.then(ended, ended);
  });
}

/** Lets what waits on the event loop have its turn first. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** The fault an aborted signal stands for: its reason when that is one of ours. */
export function cancelledBy(signal: AbortSignal): DaemonError {
  const reason: unknown = signal.reason;
  return reason instanceof DaemonError
    ? reason
    : new DaemonError({ code: "cancelled", what: "the request" });
}
