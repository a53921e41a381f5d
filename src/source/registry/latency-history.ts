// SPDX-License-Identifier: Apache-2.0
// How fast each link (a host, straight or through peers) has been lately: the last 64 times to a
// first byte, and the rates of its last busy spans. What is older than five minutes counts no
// more, nor do links beyond the 256 used last. A few bytes and no timer for each request.

import { LRUCache } from "lru-cache";
import type { Clock } from "../../platform/clock.ts";

const LINKS_MAX = 256;
const SAMPLES_MAX = 64;
const SAMPLE_AGE_MAX_MS = 300_000;
/** Fewer say nothing yet. */
const SAMPLES_MIN = 8;
/** A rate is measured over at least so long, so that one burst is not taken for the link. */
const SPAN_MS = 50;

/** How bytes of a host come: straight from it, or through its peer-to-peer proxy. */
export type Via = "direct" | "peers";

export function linkOf(host: string, via: Via): string {
  return `${via} ${host}`;
}

export class LatencyHistory {
  readonly #clock: Clock;
  readonly #links = new LRUCache<string, Link>({ max: LINKS_MAX });

  constructor({ clock }: { readonly clock: Clock }) {
    this.#clock = clock;
  }

  /** Requests that nobody waits for may queue behind others: they say nothing of a late one. */
  recordFirstByte(link: string, elapsedMs: number, isDemand: boolean): void {
    const { firstBytes, trips } = this.#of(link);
    const nowMs = this.#clock.nowMs();
    trips.add(elapsedMs, nowMs);
    if (isDemand) firstBytes.add(elapsedMs, nowMs);
  }

  /** A body begins on this link; to be ended once. */
  beginTransfer(link: string): Transfer {
    const { meter } = this.#of(link);
    const clock = this.#clock;
    meter.begin(clock.nowMs());
    let hasEnded = false;
    return {
      addBytes(count) {
        if (!hasEnded) meter.add(count, clock.nowMs());
      },
      end() {
        if (hasEnded) return;
        hasEnded = true;
        meter.end(clock.nowMs());
      },
    };
  }

  /** Of the times of demand requests to a first byte, `fraction` from 0 to 1; undefined while too few are known. */
  firstByteMs(link: string, fraction: number): number | undefined {
    return this.#links.get(link)?.firstBytes.quantile(fraction, SAMPLES_MIN, this.#clock.nowMs());
  }

  estimate(link: string): LinkEstimate | undefined {
    const known = this.#links.get(link);
    const nowMs = this.#clock.nowMs();
    const rttMs = known?.trips.quantile(0.1, 1, nowMs);
    if (known === undefined || rttMs === undefined) return undefined;
    // Spans in which the other end had little to send are no measure of the link.
    return { rttMs, bytesPerMs: known.meter.rates.quantile(0.75, 1, nowMs) };
  }

  #of(link: string): Link {
    const known = this.#links.get(link);
    if (known !== undefined) return known;
    const rates = new Samples();
    const made = { firstBytes: new Samples(), trips: new Samples(), meter: new BusyMeter(rates) };
    this.#links.set(link, made);
    return made;
  }
}

/** What requests to a host have shown of the way to it. */
export interface LinkEstimate {
  /** From a request to its first byte, when nothing is in its way. */
  readonly rttMs: number;
  /** Of all transfers at once; undefined until one took long enough to tell. */
  readonly bytesPerMs: number | undefined;
}

export interface Transfer {
  addBytes(count: number): void;
  end(): void;
}

interface Link {
  readonly firstBytes: Samples;
  readonly trips: Samples;
  readonly meter: BusyMeter;
}

/** A ring of the last values and when they were seen. */
class Samples {
  readonly #values = new Float32Array(SAMPLES_MAX);
  readonly #atMs = new Float64Array(SAMPLES_MAX);
  #count = 0;
  #next = 0;

  add(value: number, nowMs: number): void {
    this.#values[this.#next] = value;
    this.#atMs[this.#next] = nowMs;
    this.#next = (this.#next + 1) % SAMPLES_MAX;
    this.#count = Math.min(this.#count + 1, SAMPLES_MAX);
  }

  quantile(fraction: number, countMin: number, nowMs: number): number | undefined {
    const fresh = this.#values
      .subarray(0, this.#count)
      .filter((_, at) => nowMs - (this.#atMs[at] ?? 0) <= SAMPLE_AGE_MAX_MS)
      .sort();
    if (fresh.length < countMin) return undefined;
    return fresh[Math.min(fresh.length - 1, Math.floor(fraction * fresh.length))];
  }
}

/** Bytes over the time in which at least one transfer runs: what the link gives them together. */
class BusyMeter {
  readonly rates: Samples;
  #running = 0;
  #sinceMs = 0;
  #busyMs = 0;
  #byteCount = 0;

  constructor(rates: Samples) {
    this.rates = rates;
  }

  begin(nowMs: number): void {
    if (this.#running === 0) this.#sinceMs = nowMs;
    this.#running += 1;
  }

  add(count: number, nowMs: number): void {
    this.#byteCount += count;
    this.#advance(nowMs);
  }

  end(nowMs: number): void {
    this.#advance(nowMs);
    this.#running -= 1;
  }

  #advance(nowMs: number): void {
    this.#busyMs += nowMs - this.#sinceMs;
    this.#sinceMs = nowMs;
    if (this.#busyMs < SPAN_MS) return;
    this.rates.add(this.#byteCount / this.#busyMs, nowMs);
    this.#busyMs = 0;
    this.#byteCount = 0;
  }
}
