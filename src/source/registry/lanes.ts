// SPDX-License-Identifier: Apache-2.0
// One try of a range at an upstream, over one way or two: through peers and straight, raced as
// peer-lanes.ts plans it, or straight and once more when a reader waits too long (a hedge). What
// each lane shows of itself goes into the histories that the next plan is made of.

import { type Code, DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import { extentEnd } from "../../units.ts";
import type { Urgency } from "../source.ts";
import { PROXY_PATIENCE_MS, type ProxyProfile } from "./access.ts";
import type { HedgeBudget } from "./hedge-budget.ts";
import type { HTTPClient, Try } from "./http-get.ts";
import { type LatencyHistory, type Via, linkOf } from "./latency-history.ts";
import type { RegistryObserver } from "./options.ts";
import { planLanes, stallAfterMs } from "./peer-lanes.ts";
import { type PeerFailure, type Peers, hostOf } from "./peers.ts";
import { type Lane, type StartReason, race } from "./race.ts";
import { type RangeFetch, fetchRange } from "./range-fetch.ts";
import type { RetryHints } from "./retry.ts";
import { type Route, STRAIGHT } from "./transport.ts";

/** A hedge is not worth its request when it could save less. */
const HEDGE_DELAY_MIN_MS = 20;
const PROXY_AUTHENTICATION_REQUIRED = 407;

export interface LanesParts {
  readonly clock: Clock;
  readonly http: HTTPClient;
  readonly history: LatencyHistory;
  readonly hedges: HedgeBudget;
  readonly peers: Peers;
  readonly observe: RegistryObserver;
  /** A request has failed while another one for the same bytes is under way. */
  readonly onCovered: (attempt: StraightTry, error: DaemonError) => void;
}

/** What holds for all tries of one fetch. */
export interface LaneTerms {
  readonly urgency: Urgency;
  /** Absolute, on the clock. */
  readonly deadlineMs: number;
  /** Aborts when somebody begins to wait. */
  readonly awaited: AbortSignal | undefined;
  /** Peers gave bad bytes, or failed an earlier try. */
  avoidPeers: boolean;
}

/** A try without its way. */
export type StraightTry = Omit<Try, "route">;

const LOST_FACTOR = 1.2;

export class Lanes {
  readonly #parts: LanesParts;

  constructor(parts: LanesParts) {
    this.#parts = parts;
  }

  /** As fetchRange(); a hedge goes to `spare`. */
  async fetch(
    attempt: StraightTry,
    range: RangeFetch,
    terms: LaneTerms,
    spare: StraightTry = attempt,
  ): Promise<void> {
    const { peers } = this.#parts;
    const proxy = peers.proxyFor(attempt.upstream.accessHost, attempt.access());
    if (proxy?.fallback === false) {
      await this.#fetchThrough(attempt, range, terms, proxy);
    } else if (proxy === undefined || terms.avoidPeers || !peers.mayAsk(proxy)) {
      await this.#fetchHedged(attempt, range, terms, spare);
    } else {
      await this.#fetchRaced(attempt, range, terms, proxy);
    }
  }

  /**
   * For small answers that peers do not share: straight, and through the proxy only where it is
   * the one way out.
   */
  async ask<T>(attempt: StraightTry, run: (attempt: Try) => Promise<T>): Promise<T> {
    const { peers } = this.#parts;
    const proxy = peers.proxyFor(attempt.upstream.accessHost, attempt.access());
    const proxied = (through: ProxyProfile): Promise<T> =>
      run({ ...attempt, route: routeThrough(through, "demand") });
    if (proxy?.fallback === false) {
      this.#checkAnswering(attempt, proxy);
      return await proxied(proxy);
    }
    try {
      return await run({ ...attempt, route: STRAIGHT });
    } catch (error) {
      const isUnreachable =
        error instanceof DaemonError && error.fault.code === "registry_unreachable";
      if (proxy === undefined || !isUnreachable || attempt.signal.aborted) throw error;
      if (!peers.isInUse(proxy)) throw error;
      return await proxied(proxy);
    }
  }

  async #fetchThrough(
    attempt: StraightTry,
    range: RangeFetch,
    terms: LaneTerms,
    proxy: ProxyProfile,
  ): Promise<void> {
    this.#checkAnswering(attempt, proxy);
    const lane = this.#peersLane(attempt, range, terms, proxy, attempt.hints);
    await lane(0, range.onPiece, attempt.signal);
  }

  async #fetchRaced(
    attempt: StraightTry,
    range: RangeFetch,
    terms: LaneTerms,
    proxy: ProxyProfile,
  ): Promise<void> {
    const { clock, peers, observe } = this.#parts;
    const host = attempt.upstream.name;
    const isNear = peers.hasNearby(proxy, range.blob.digest, range.wanted);
    const plan = planLanes(this.#facts(attempt, terms, proxy, isNear));
    const isPeersFirst = plan.first === "peers";
    const through = this.#peersLane(attempt, range, terms, proxy);
    const straight = this.#lane(attempt, range, terms, STRAIGHT);
    const isPeers = (lane: 0 | 1): boolean => (lane === 0) === isPeersFirst;
    let reason: StartReason | undefined;
    await race({
      clock,
      signal: attempt.signal,
      first: isPeersFirst ? through : straight,
      second: isPeersFirst ? straight : through,
      delayMs: plan.delayMs,
      hurry: terms.awaited,
      hurriedMs: plan.hurriedMs,
      stallMs: plan.stallMs,
      takesOver: true,
      mayStart: () => true,
      onPiece: range.onPiece,
      // What the registry says counts.
      authority: isPeersFirst ? 1 : 0,
      onStart: (why, lane) => {
        reason = why;
        if (why === "failed") return;
        observe.peerRace?.(host, "started");
        if (isPeers(lane)) return;
        if (why === "stalled") this.#peersFailed(terms, proxy, "stalled");
        else if (terms.urgency !== "demand" && terms.awaited?.aborted !== true) {
          this.#peersFailed(terms, proxy, "late");
        }
      },
      onLead: (lane) => {
        const won = isPeers(lane);
        if (terms.urgency === "demand" && isPeersFirst && !isNear) peers.raced(proxy, won);
        if (reason === undefined || reason === "failed") return;
        observe.peerRace?.(host, won ? "won_by_peers" : "won_by_registry");
      },
    });
  }

  async #fetchHedged(
    attempt: StraightTry,
    range: RangeFetch,
    terms: LaneTerms,
    spare: StraightTry,
  ): Promise<void> {
    const { clock, hedges, history, observe, onCovered } = this.#parts;
    const first = this.#lane(attempt, range, terms, STRAIGHT);
    if (terms.urgency !== "demand") {
      await first(0, range.onPiece, attempt.signal);
      return;
    }
    hedges.earn();
    const hedge = { ...spare, hints: freshHints() };
    const host = attempt.upstream.name;
    const link = linkOf(host, "direct");
    const lateMs = history.firstByteMs(link, 0.95);
    await race({
      clock,
      signal: attempt.signal,
      first,
      second: this.#lane(hedge, range, terms, STRAIGHT),
      delayMs: lateMs === undefined ? undefined : Math.max(HEDGE_DELAY_MIN_MS, lateMs),
      stallMs: stallAfterMs(lateMs),
      takesOver: false,
      mayStart: () => hedges.take(),
      onPiece: range.onPiece,
      onStart: () => observe.hedge?.(host, "started"),
      onCovered: (error, lane) => onCovered(lane === 0 ? attempt : hedge, error),
      onLead: (lane) => {
        if (lane === 1) observe.hedge?.(host, "won");
      },
    });
  }

  #facts(attempt: StraightTry, terms: LaneTerms, proxy: ProxyProfile, isNear: boolean) {
    const { clock, history, peers } = this.#parts;
    const direct = linkOf(attempt.upstream.name, "direct");
    const through = linkOf(attempt.upstream.name, "peers");
    return {
      urgency: terms.urgency,
      directMedianMs: history.firstByteMs(direct, 0.5),
      directLateMs: history.firstByteMs(direct, 0.95),
      peersMedianMs: history.firstByteMs(through, 0.5),
      peersUnhurriedMs: history.unhurriedFirstByteMs(through, 0.75),
      peersHopeless: terms.urgency === "demand" && !isNear && peers.isHopeless(proxy),
      patienceMs: proxy.patienceMs ?? PROXY_PATIENCE_MS,
      remainingMs: terms.deadlineMs - clock.nowMs(),
    };
  }

  #peersLane(
    attempt: StraightTry,
    range: RangeFetch,
    terms: LaneTerms,
    proxy: ProxyProfile,
    hints: RetryHints = freshHints(),
  ): Lane {
    const { peers } = this.#parts;
    const route = routeThrough(proxy, terms.urgency);
    const lane = this.#lane({ ...attempt, hints }, range, terms, route);
    return async (offset, onPiece, signal) => {
      let gotBytes = 0;
      const count = (piece: Uint8Array): void => {
        gotBytes += piece.length;
        onPiece(piece);
      };
      try {
        await lane(offset, count, signal);
        peers.succeeded(proxy);
      } catch (error) {
        if (!signal.aborted && error instanceof DaemonError) {
          this.#peersFailed(terms, proxy, causeOf(error));
        }
        throw error;
      } finally {
        const begin = range.wanted.offset + offset;
        if (gotBytes > 0) {
          peers.served(proxy, range.blob.digest, { offset: begin, length: gotBytes });
        }
      }
    };
  }

  #lane(attempt: StraightTry, range: RangeFetch, terms: LaneTerms, route: Route): Lane {
    const { http } = this.#parts;
    const { blob, wanted, onFlow } = range;
    const via = route.proxy === undefined ? "direct" : "peers";
    return async (skippedBytes, onPiece, signal) => {
      const offset = wanted.offset + skippedBytes;
      const rest = { offset, length: extentEnd(wanted) - offset };
      if (rest.length === 0) return;
      const timing = this.#timing(attempt.upstream.name, via, terms.urgency);
      const timed = (piece: Uint8Array): void => {
        timing.onPiece();
        onPiece(piece);
      };
      try {
        await fetchRange(
          http,
          { ...attempt, route, signal },
          { blob, wanted: rest, onPiece: timed, ...(onFlow && { onFlow }) },
        );
        timing.end("done");
      } catch (error) {
        timing.end(signal.aborted && !attempt.signal.aborted ? "lost" : "failed");
        throw error;
      }
    };
  }

  #timing(host: string, via: Via, urgency: Urgency) {
    const { clock, history, observe } = this.#parts;
    const link = linkOf(host, via);
    const startMs = clock.nowMs();
    let firstMs: number | undefined;
    return {
      onPiece: (): void => {
        if (firstMs !== undefined) return;
        firstMs = clock.nowMs();
        history.recordFirstByte(link, firstMs - startMs, urgency === "demand");
        observe.firstByte?.(host, via, firstMs - startMs);
      },
      end: (how: "done" | "lost" | "failed"): void => {
        const nowMs = clock.nowMs();
        if (firstMs !== undefined) {
          if (how === "done") observe.transfer?.(host, via, nowMs - firstMs);
        } else if (how === "lost" && via === "direct") {
          // It would have taken longer still; without it late answers would never be seen.
          history.recordFirstByte(link, nowMs - startMs, urgency === "demand");
        } else if (how === "lost" && urgency !== "demand") {
          // How much longer peers would have taken is not known; a bit, or nothing would be learnt.
          history.recordFirstByte(link, LOST_FACTOR * (nowMs - startMs), false);
        }
      },
    };
  }

  #peersFailed(terms: LaneTerms, proxy: ProxyProfile, cause: PeerFailure): void {
    terms.avoidPeers = true;
    this.#parts.peers.failed(proxy, cause);
  }

  #checkAnswering({ upstream }: StraightTry, proxy: ProxyProfile): void {
    if (this.#parts.peers.isAnswering(proxy)) return;
    const detail = `its proxy ${hostOf(proxy)} does not answer its ping`;
    throw new DaemonError({ code: "registry_unreachable", host: upstream.name, detail });
  }
}

/** A second lane's hints are not the try's: only the first decides what is tried next. */
function freshHints(): RetryHints {
  return { retryAfterMs: undefined, final: false };
}

function routeThrough(proxy: ProxyProfile, urgency: Urgency): Route {
  const more = urgency === "prefetch" ? proxy.prefetchHeaders : {};
  return { proxy, headers: { ...proxy.headers, ...more } };
}

const CAUSES: Readonly<Partial<Record<Code, PeerFailure>>> = {
  registry_unreachable: "unreachable",
  registry_timeout: "timeout",
  registry_unauthorized: "refused",
  registry_throttled: "refused",
  blob_not_found: "refused",
};

function causeOf({ fault }: DaemonError): PeerFailure {
  if (fault.code !== "registry_failed") return CAUSES[fault.code] ?? "wrong_answer";
  const { status } = fault;
  return status >= 500 || status === PROXY_AUTHENTICATION_REQUIRED ? "error_status" : "refused";
}
