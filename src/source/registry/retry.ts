// SPDX-License-Identifier: Apache-2.0
// The one retry policy of the registry client: which faults are tried again is ERROR_POLICY's
// answer, when is exponential backoff with full jitter, or what Retry-After asks
// (RFC 9110, section 10.2.3). The last tries before the deadline come sooner; one that the server
// lets begin only after it is not waited for.

import { DaemonError } from "../../errors.ts";
import { type Clock, type Random, sleep } from "../../platform/clock.ts";

export interface RetryOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Tries in all, 1 or more; Infinity: until the deadline. */
  readonly attemptsMax: number;
  readonly backoffBaseMs: number;
  readonly backoffCapMs: number;
  /** Absolute, on `clock`. */
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
  /** Told of every failed try, counted from 1. `delayMs` is undefined when there will be no other. */
  readonly onFailure?: (error: DaemonError, delayMs: number | undefined, tried: number) => void;
  /** Waits before the next try; may be over sooner. By default a sleep. */
  readonly pause?: (delayMs: number) => Promise<void>;
}

/** What a failed try leaves for the next one. */
export interface RetryHints {
  /** How long the server asked us to wait. */
  retryAfterMs: number | undefined;
  /** Whatever the fault, there is nothing left to try. */
  final: boolean;
}

/** Runs `attempt` until it resolves, its fault may not be retried, or tries or time run out. */
export async function withRetries<T>(
  options: RetryOptions,
  attempt: (hints: RetryHints) => Promise<T>,
): Promise<T> {
  const { clock, signal } = options;
  for (let tried = 1; ; tried += 1) {
    const hints: RetryHints = { retryAfterMs: undefined, final: false };
    try {
      return await attempt(hints);
    } catch (error) {
      if (!(error instanceof DaemonError)) throw error;
      const delayMs = nextDelay(options, error, tried, hints);
      // An abort is the caller's doing, not the registry's failure.
      if (!signal.aborted) options.onFailure?.(error, delayMs, tried);
      if (delayMs === undefined) throw error;
      await (options.pause?.(delayMs) ?? sleep(clock, delayMs, signal));
    }
  }
}

function nextDelay(
  options: RetryOptions,
  error: DaemonError,
  tried: number,
  hints: RetryHints,
): number | undefined {
  const { clock, random, attemptsMax, deadlineMs, signal } = options;
  if (hints.final || signal.aborted || tried >= attemptsMax) return undefined;
  if (error.policy.retry === "never") return undefined;
  const leftMs = deadlineMs - clock.nowMs();
  const capMs = Math.min(options.backoffCapMs, options.backoffBaseMs * 2 ** (tried - 1));
  const drawnMs = random() * capMs;
  const backoffMs = drawnMs < leftMs || leftMs < options.backoffBaseMs ? drawnMs : leftMs / 2;
  const delayMs = Math.max(backoffMs, hints.retryAfterMs ?? 0);
  return delayMs < leftMs ? delayMs : undefined;
}

/**
 * Retry-After as milliseconds from now: whole seconds, or an HTTP-date counted from the
 * response's own Date header (so that clocks need not agree), else from `wallClockMs`.
 * Undefined when absent or malformed; never negative.
 */
export function parseRetryAfter(
  headers: ReadonlyMap<string, string>,
  wallClockMs: () => number,
): number | undefined {
  const text = headers.get("retry-after")?.trim();
  if (text === undefined || text === "") return undefined;
  if (/^[0-9]{1,9}$/.test(text)) return Number(text) * 1000;
  const until = parseHttpDate(text);
  if (until === undefined) return undefined;
  const from = parseHttpDate(headers.get("date") ?? "") ?? wallClockMs();
  return Math.max(0, until - from);
}

/** The IMF-fixdate form, which is the only one a sender may use; milliseconds since 1970. */
function parseHttpDate(text: string): number | undefined {
  if (!/^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT$/.test(text)) {
    return undefined;
  }
  const time = Date.parse(text);
  return Number.isNaN(time) ? undefined : time;
}
