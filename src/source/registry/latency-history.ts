// SPDX-License-Identifier: Apache-2.0
// How soon each link (a host, straight or through peers) has answered lately: the last 64 times to a
// first byte. What is older than five minutes counts no more, nor do links beyond the 256 used last.
// What a host's link carries, the engine measures (flow/link-meter.ts).

import { LRUCache } from "lru-cache";
import type { Clock } from "../../platform/clock.ts";

const LINKS_MAX = 256;
const SAMPLES_MAX = 64;
const SAMPLE_AGE_MAX_MS = 300_000;
/** Fewer say nothing yet. */
const SAMPLES_MIN = 8;

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
    const { demand, others } = this.#of(link);
    (isDemand ? demand : others).add(elapsedMs, this.#clock.nowMs());
  }

  /** Of the times of demand requests to a first byte, `fraction` from 0 to 1; undefined while too few are known. */
  firstByteMs(link: string, fraction: number): number | undefined {
    return this.#links.get(link)?.demand.quantile(fraction, SAMPLES_MIN, this.#clock.nowMs());
  }

  /** As firstByteMs, of the requests that nobody waited for. */
  unhurriedFirstByteMs(link: string, fraction: number): number | undefined {
    return this.#links.get(link)?.others.quantile(fraction, 1, this.#clock.nowMs());
  }

  #of(link: string): Link {
    const known = this.#links.get(link);
    if (known !== undefined) return known;
    const made = { demand: new Samples(), others: new Samples() };
    this.#links.set(link, made);
    return made;
  }
}

interface Link {
  readonly demand: Samples;
  readonly others: Samples;
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
