// SPDX-License-Identifier: Apache-2.0
// One round of tries: the upstreams one after the other, without a pause, until one of them
// serves. Between rounds there is backoff (retry.ts).

import { DaemonError } from "../../errors.ts";
import type { RetryHints } from "./retry.ts";
import type { Upstream } from "./upstream.ts";
import { leadsToNext } from "./upstream-order.ts";

export interface RoundOptions {
  /** At least one, first things first. */
  readonly upstreams: readonly Upstream[];
  readonly signal: AbortSignal;
  /** Told of every try that failed; `next` is who is asked now, undefined at the round's end. */
  readonly onFailure: (upstream: Upstream, error: DaemonError, next: Upstream | undefined) => void;
}

/**
 * Resolves with what the first upstream that serves gives. Rejects with the last one's fault, for
 * that is the registry itself; `hints` are then those of the whole round.
 */
export async function tryInOrder<T>(
  { upstreams, signal, onFailure }: RoundOptions,
  hints: RetryHints,
  run: (upstream: Upstream, hints: RetryHints) => Promise<T>,
): Promise<T> {
  let shortestMs = Number.POSITIVE_INFINITY;
  for (const [index, upstream] of upstreams.entries()) {
    const own: RetryHints = { retryAfterMs: undefined, final: false };
    try {
      return await run(upstream, own);
    } catch (error) {
      if (!(error instanceof DaemonError)) throw error;
      shortestMs = Math.min(shortestMs, own.retryAfterMs ?? 0);
      hints.final = own.final;
      hints.retryAfterMs = shortestMs;
      const isOver = own.final || signal.aborted || !leadsToNext(error);
      const next = isOver ? undefined : upstreams[index + 1];
      // An abort is the caller's doing, not the upstream's failure.
      if (!signal.aborted) onFailure(upstream, error, next);
      if (next === undefined) throw error;
    }
  }
  throw new Error("a round has at least one upstream");
}
