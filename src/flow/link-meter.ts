// SPDX-License-Identifier: Apache-2.0
// Measures the way to each host by what comes over it: the wait for a fetch's first byte, and
// what all fetches together bring while any of them is bringing something. Nothing is sent for it.

import { LRUCache } from "lru-cache";
import type { LinkFacts } from "../planner/link-facts.ts";
import { MIB } from "../units.ts";

const HOSTS_MAX = 256;
/** A sample of bandwidth is this long at least, or this many bytes: pieces come in bursts. */
const SAMPLE_MS = 10;
const SAMPLE_BYTES = MIB;
const SAMPLE_MS_MIN = 0.2;
/** A better figure is believed at once by half, a worse one slowly: delays have many causes. */
const BETTER_SHARE = 1 / 2;
const WORSE_SHARE = 1 / 16;

export interface FetchMeasure {
  took(bytes: number, nowMs: number): void;
  ended(): void;
}

interface Host {
  rttMs: number | undefined;
  bytesPerMs: number | undefined;
  /** Fetches that have had their first byte. */
  streaming: number;
  sampleFromMs: number;
  sampleBytes: number;
}

export class LinkMeter {
  readonly #hosts = new LRUCache<string, Host>({ max: HOSTS_MAX });

  /** Undefined until both figures are known. */
  facts(host: string): LinkFacts | undefined {
    const { rttMs, bytesPerMs } = this.#hosts.get(host) ?? {};
    return rttMs === undefined || bytesPerMs === undefined ? undefined : { rttMs, bytesPerMs };
  }

  /** A request is on its way. */
  began(host: string, beganMs: number): FetchMeasure {
    const of = this.#hostOf(host);
    let isStreaming = false;
    return {
      took: (bytes, nowMs) => {
        if (!isStreaming) {
          isStreaming = true;
          of.rttMs = moved(of.rttMs, nowMs - beganMs, (a, b) => a < b);
          if (of.streaming === 0) startSample(of, nowMs);
          of.streaming += 1;
          return;
        }
        of.sampleBytes += bytes;
        const ms = nowMs - of.sampleFromMs;
        if (ms < SAMPLE_MS && of.sampleBytes < SAMPLE_BYTES) return;
        const rate = of.sampleBytes / Math.max(ms, SAMPLE_MS_MIN);
        of.bytesPerMs = moved(of.bytesPerMs, rate, (a, b) => a > b);
        startSample(of, nowMs);
      },
      ended() {
        if (isStreaming) of.streaming -= 1;
        isStreaming = false;
      },
    };
  }

  #hostOf(host: string): Host {
    const known = this.#hosts.get(host);
    if (known !== undefined) return known;
    const made = {
      rttMs: undefined,
      bytesPerMs: undefined,
      streaming: 0,
      sampleFromMs: 0,
      sampleBytes: 0,
    };
    this.#hosts.set(host, made);
    return made;
  }
}

function startSample(of: Host, nowMs: number): void {
  of.sampleFromMs = nowMs;
  of.sampleBytes = 0;
}

function moved(
  known: number | undefined,
  seen: number,
  isBetter: (a: number, b: number) => boolean,
): number {
  if (known === undefined) return seen;
  return known + (seen - known) * (isBetter(seen, known) ? BETTER_SHARE : WORSE_SHARE);
}
