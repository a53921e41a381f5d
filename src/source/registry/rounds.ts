// SPDX-License-Identifier: Apache-2.0
// One round of tries: the upstreams one after the other, without a pause, until one of them
// serves. Between rounds there is backoff (retry.ts).

import { DaemonError } from "../../errors.ts";
import type { RetryHints } from "./retry.ts";
import type { Upstream } from "./upstream.ts";
import { type Entry, type UpstreamHealth, outcomeOf } from "./upstream-health.ts";
import { leadsToNext } from "./upstream-order.ts";

export interface RoundOptions {
  /** At least one, first things first. */
  readonly upstreams: readonly Upstream[];
  readonly health: UpstreamHealth;
  readonly entryOf: (upstream: Upstream) => Entry;
  readonly signal: AbortSignal;
  /** Told of every try that failed; `next` is who is asked now, undefined at the round's end. */
  readonly onFailure: (upstream: Upstream, error: DaemonError, next: Upstream | undefined) => void;
}

/** One try at one upstream. */
export type RunTry<T> = (upstream: Upstream, hints: RetryHints) => Promise<T>;

/**
 * Resolves with what the first upstream that serves gives. Rejects with the fault of the registry
 * itself where it was asked, else with the last one's; `hints` are then those of the whole round.
 */
export async function tryInOrder<T>(
  options: RoundOptions,
  hints: RetryHints,
  run: RunTry<T>,
): Promise<T> {
  const { upstreams, signal, onFailure } = options;
  let shortestMs = Number.POSITIVE_INFINITY;
  let verdict: DaemonError | undefined;
  for (const [index, upstream] of upstreams.entries()) {
    const own: RetryHints = { retryAfterMs: undefined, final: false };
    try {
      return await tryOne(options, upstream, own, run);
    } catch (error) {
      if (!(error instanceof DaemonError)) throw error;
      shortestMs = Math.min(shortestMs, own.retryAfterMs ?? 0);
      hints.final = own.final;
      hints.retryAfterMs = shortestMs;
      const isOver = own.final || signal.aborted || !leadsToNext(error);
      const next = isOver ? undefined : upstreams[index + 1];
      // An abort is the caller's doing, not the upstream's failure.
      if (!signal.aborted) onFailure(upstream, error, next);
      if (!upstream.isMirror) verdict = error;
      if (next === undefined) throw isOver ? error : (verdict ?? error);
    }
  }
  throw new Error("a round has at least one upstream");
}

/** Goes in by the host's breaker, and tells it how it went. */
async function tryOne<T>(
  { health, entryOf, signal }: RoundOptions,
  upstream: Upstream,
  hints: RetryHints,
  run: RunTry<T>,
): Promise<T> {
  const entry = entryOf(upstream);
  const leave = await health.enter(upstream, entry).catch((error: unknown) => {
    if (error instanceof DaemonError && error.fault.code === "registry_throttled") {
      hints.retryAfterMs = error.fault.retryAfterMs;
    }
    // Refused because nobody waits for it: asking again now would be refused again.
    hints.final = !entry.isAwaited;
    throw error;
  });
  try {
    const result = await run(upstream, hints);
    leave("served");
    return result;
  } catch (error) {
    const ours = error instanceof DaemonError && !signal.aborted ? error : undefined;
    if (ours !== undefined && hints.retryAfterMs !== undefined) {
      health.waits(upstream, hints.retryAfterMs);
      leave("unknown");
    } else if (ours === undefined) leave("unknown");
    else leave(outcomeOf(ours), ours);
    throw error;
  }
}
