// SPDX-License-Identifier: Apache-2.0
// What is known of peer-to-peer proxies: which one is for whom, whether it works (its ping, and a
// circuit breaker fed by what it does), how often it wins, and which bytes came through it, so that
// bytes found bad are held against it. A proxy is a shortcut, not a second truth.

import { LRUCache } from "lru-cache";
import type { Clock } from "../../platform/clock.ts";
import { type Extent, alignDown, alignUp, extentEnd, overlaps } from "../../units.ts";
import { type Access, PROXY_PIECE_BYTES, type ProxyProfile } from "./access.ts";
import { Breaker } from "./breaker.ts";
import type { PeerOptions, RegistryLog, RegistryObserver } from "./options.ts";
import { Proxies } from "./proxies.ts";

const PROXIES_MAX = 64;
const SERVED_MAX = 256;
const PROBE_MAX_MS = 5_000;
/** A demand race is remembered for about so many others. */
const RACE_WEIGHT_MIN = 1 / 8;
const RACES_MIN = 5;
/** Below this share of won races they are asked second. */
const WINS_MIN = 0.1;
/** One in so many goes first all the same: peers may have become useful. */
const EXPLORE_EVERY = 24;

/** What a proxy did wrong, as it is counted. */
export type PeerFailure =
  | "unreachable"
  | "timeout"
  | "wrong_answer"
  | "error_status"
  | "refused"
  | "stalled"
  | "late"
  | "bad_bytes";

export interface PeersParts {
  readonly clock: Clock;
  readonly options: PeerOptions | undefined;
  readonly observe: RegistryObserver;
  readonly log: RegistryLog | undefined;
  readonly closing: AbortSignal;
  readonly ping: (url: URL) => Promise<boolean>;
}

interface Known {
  readonly breaker: Breaker;
  /** A request finds out whether it is well again; until then no other is sent. */
  probeUntilMs: number;
  wins: number;
  races: number;
}

interface Served {
  readonly proxy: ProxyProfile;
  readonly digest: string;
  readonly extent: Extent;
}

export class Peers {
  readonly #parts: PeersParts;
  readonly #health: Proxies;
  readonly #known = new LRUCache<string, Known>({ max: PROXIES_MAX });
  /** A ring. */
  readonly #served: (Served | undefined)[] = Array.from({ length: SERVED_MAX });
  #servedNext = 0;

  constructor(parts: PeersParts) {
    this.#parts = parts;
    const { clock, closing, ping, log } = parts;
    this.#health = new Proxies({
      clock,
      closing,
      ping,
      onChange: (proxy, isGood) => {
        if (isGood) log?.debug({ proxy }, "the proxy answers its ping again");
        else log?.warn({ proxy }, "the proxy does not answer its ping");
      },
    });
  }

  /** The proxy of a repository's own profile, or the one that is configured for its host. */
  proxyFor(host: string, access: Access | undefined): ProxyProfile | undefined {
    const own = access?.profile.proxy;
    if (own !== undefined) return own;
    const { options } = this.#parts;
    if (options === undefined) return undefined;
    return options.hosts.length === 0 || options.hosts.includes(host) ? options.proxy : undefined;
  }

  /** Answers its ping, as far as is known. */
  isAnswering(proxy: ProxyProfile): boolean {
    return this.#health.isGood(proxy);
  }

  /** May be asked for this request; a true of an open breaker is the one probe it lets through. */
  mayAsk(proxy: ProxyProfile): boolean {
    if (!this.isAnswering(proxy)) return false;
    const known = this.#of(proxy);
    const { breaker } = known;
    if (breaker.state === "closed") return true;
    const nowMs = this.#parts.clock.nowMs();
    if (breaker.restMs(nowMs) > 0 || nowMs < known.probeUntilMs) return false;
    // A probe that nobody hears of any more does not close the way for ever.
    known.probeUntilMs = nowMs + PROBE_MAX_MS;
    this.#change(proxy, () => breaker.answered());
    return true;
  }

  /** Would be asked now; changes nothing. */
  isInUse(proxy: ProxyProfile): boolean {
    return this.isAnswering(proxy) && this.#of(proxy).breaker.state === "closed";
  }

  /** They hardly ever win the race for a reader: then they are asked second, most of the time. */
  isHopeless(proxy: ProxyProfile): boolean {
    const known = this.#of(proxy);
    if (known.races < RACES_MIN || known.wins >= WINS_MIN) return false;
    known.races += 1;
    return known.races % EXPLORE_EVERY !== 0;
  }

  /** A reader's race in which both were asked, or in which peers needed no other. */
  raced(proxy: ProxyProfile, peersWon: boolean): void {
    const known = this.#of(proxy);
    // The first ones weigh more: each lost race may cost the registry a whole piece.
    const weight = Math.max(RACE_WEIGHT_MIN, 1 / (known.races + 2));
    known.wins += ((peersWon ? 1 : 0) - known.wins) * weight;
    known.races += 1;
  }

  /** A request that was made before the breaker opened says nothing. */
  succeeded(proxy: ProxyProfile): void {
    const { breaker } = this.#of(proxy);
    if (breaker.state === "open") return;
    this.#change(proxy, () => breaker.succeeded(this.#parts.clock.nowMs()));
  }

  /** These bytes came through it and were passed on. */
  served(proxy: ProxyProfile, digest: string, extent: Extent): void {
    this.#served[this.#servedNext] = { proxy, digest, extent };
    this.#servedNext = (this.#servedNext + 1) % SERVED_MAX;
  }

  failed(proxy: ProxyProfile, cause: PeerFailure): void {
    const host = hostOf(proxy);
    this.#parts.observe.peerFailure?.(host, cause);
    // What the registry refuses through it is not its fault.
    if (cause === "refused") return;
    const { breaker } = this.#of(proxy);
    const isProbe = breaker.state === "half-open";
    this.#change(proxy, () => breaker.failed(this.#parts.clock.nowMs(), isProbe));
  }

  /** Some of these pieces came through it lately: the rest of them is near. */
  hasNearby(proxy: ProxyProfile, digest: string, extent: Extent): boolean {
    const step = proxy.pieceBytes ?? PROXY_PIECE_BYTES;
    const offset = alignDown(extent.offset, step);
    const pieces = { offset, length: alignUp(extentEnd(extent), step) - offset };
    return this.#served.some(
      (served) =>
        served?.proxy.url === proxy.url &&
        served.digest === digest &&
        overlaps(served.extent, pieces),
    );
  }

  /** These bytes were bad. What peers gave of them lately is held against their proxy. */
  accuse(digest: string, extent: Extent): void {
    for (const [at, served] of this.#served.entries()) {
      if (served?.digest !== digest || !overlaps(served.extent, extent)) continue;
      this.#served[at] = undefined;
      const host = hostOf(served.proxy);
      this.#parts.observe.peerFailure?.(host, "bad_bytes");
      this.#parts.log?.warn({ proxy: host, digest }, "bad bytes came through the proxy");
      const { breaker } = this.#of(served.proxy);
      if (breaker.state === "open") continue;
      this.#change(served.proxy, () => breaker.trip(this.#parts.clock.nowMs()));
    }
  }

  #change(proxy: ProxyProfile, change: () => void): void {
    const { breaker } = this.#of(proxy);
    const before = breaker.state;
    change();
    if (breaker.state === before) return;
    const host = hostOf(proxy);
    this.#parts.observe.breaker?.(host, breaker.state);
    if (breaker.state === "open") {
      this.#parts.log?.warn({ proxy: host }, "the proxy fails: it is left out for a while");
    }
  }

  #of(proxy: ProxyProfile): Known {
    const known = this.#known.get(proxy.url);
    if (known !== undefined) return known;
    // Hopeful at first: only races can tell.
    const made = { breaker: new Breaker(), probeUntilMs: 0, wins: 0.5, races: 0 };
    this.#known.set(proxy.url, made);
    return made;
  }
}

/** Without what may be secret in the URL. */
export function hostOf(proxy: ProxyProfile): string {
  return new URL(proxy.url).host;
}
