// SPDX-License-Identifier: Apache-2.0
// Measures the way to each host by what comes over it: the wait for a fetch's first byte, and
// what all fetches together bring while any of them is bringing something. Nothing is sent for it.

import { LRUCache } from "lru-cache";
import type { LinkFacts } from "../planner/link-facts.ts";
import { KIB, MIB } from "../units.ts";

const HOSTS_MAX = 256;
/**
 * A sample of bandwidth: so long that something is coming, or so many bytes. What comes after a
 * pause of ours comes in a burst, and a shorter sample would take it for the link's speed.
 */
const SAMPLE_MS = 50;
const SAMPLE_BYTES = 16 * MIB;
/** Until there is one, so much gives a guess, as if it had taken so long at least: it may be a burst. */
const GUESS_BYTES = 64 * KIB;
const GUESS_MS_MIN = 2;
const SAMPLE_MS_MIN = 0.2;
/** A better figure is believed sooner than a worse one: delays have many causes. */
const BETTER_RTT_SHARE = 1 / 2;
const WORSE_RTT_SHARE = 1 / 16;
const FASTER_SHARE = 1 / 4;
const SLOWER_SHARE = 1 / 8;

export interface FetchMeasure {
  /** It comes with a request that was under way: its first byte says nothing of the round trip. */
  joined(nowMs: number): void;
  took(bytes: number, nowMs: number): void;
  ended(nowMs: number): void;
}

interface Host {
  rttMs: number | undefined;
  bytesPerMs: number | undefined;
  /** Fetches that have had their first byte. */
  streaming: number;
  /** Up to when the time of the sample is counted. */
  countedMs: number;
  sampleMs: number;
  sampleBytes: number;
}

export class LinkMeter {
  readonly #hosts = new LRUCache<string, Host>({ max: HOSTS_MAX });

  /** Undefined until something is known of both figures. */
  facts(host: string): LinkFacts | undefined {
    const of = this.#hosts.get(host);
    if (of?.rttMs === undefined) return undefined;
    const bytesPerMs = of.bytesPerMs ?? guessed(of);
    return bytesPerMs === undefined ? undefined : { rttMs: of.rttMs, bytesPerMs };
  }

  /** A request is on its way. */
  began(host: string, beganMs: number): FetchMeasure {
    const of = this.#hostOf(host);
    let isStreaming = false;
    const stream = (nowMs: number): void => {
      isStreaming = true;
      if (of.streaming === 0) of.countedMs = nowMs;
      of.streaming += 1;
    };
    return {
      joined: stream,
      took: (bytes, nowMs) => {
        if (!isStreaming) {
          const ms = nowMs - beganMs;
          const isBetter = ms < (of.rttMs ?? Infinity);
          of.rttMs = moved(of.rttMs, ms, isBetter ? BETTER_RTT_SHARE : WORSE_RTT_SHARE);
          stream(nowMs);
          return;
        }
        of.sampleBytes += bytes;
        count(of, nowMs);
      },
      ended(nowMs) {
        if (!isStreaming) return;
        isStreaming = false;
        count(of, nowMs);
        of.streaming -= 1;
      },
    };
  }

  #hostOf(host: string): Host {
    const known = this.#hosts.get(host);
    if (known !== undefined) return known;
    const made: Host = {
      rttMs: undefined,
      bytesPerMs: undefined,
      streaming: 0,
      countedMs: 0,
      sampleMs: 0,
      sampleBytes: 0,
    };
    this.#hosts.set(host, made);
    return made;
  }
}

function count(of: Host, nowMs: number): void {
  of.sampleMs += Math.max(0, nowMs - of.countedMs);
  of.countedMs = nowMs;
  if (of.sampleMs < SAMPLE_MS && of.sampleBytes < SAMPLE_BYTES) return;
  const rate = of.sampleBytes / Math.max(of.sampleMs, SAMPLE_MS_MIN);
  const isFaster = rate > (of.bytesPerMs ?? 0);
  of.bytesPerMs = moved(of.bytesPerMs, rate, isFaster ? FASTER_SHARE : SLOWER_SHARE);
  of.sampleMs = 0;
  of.sampleBytes = 0;
}

function guessed({ sampleBytes, sampleMs }: Host): number | undefined {
  return sampleBytes < GUESS_BYTES ? undefined : sampleBytes / Math.max(sampleMs, GUESS_MS_MIN);
}

function moved(known: number | undefined, seen: number, share: number): number {
  return known === undefined ? seen : known + (seen - known) * share;
}
