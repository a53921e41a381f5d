// SPDX-License-Identifier: Apache-2.0
// What readers are about, for whoever watches: sums, what is slow, and whose it is. Kept as plain
// numbers, bounded, and put together when somebody asks.

import { LRUCache } from "lru-cache";
import type { Engine } from "../flow/engine.ts";
import type { AnsweredRead, EndedFill, FlowObserver } from "../flow/flow-observer.ts";
import type { Clock } from "../platform/clock.ts";
import type { Urgency } from "../units.ts";
import type { ActivityAnswer } from "./activity-schema.ts";

const OBJECTS_MAX = 4096;
const SLOW_MAX = 32;
/** A read that was slow is shown for so long. */
const SLOW_KEPT_MS = 60_000;
const WAITING_SHOWN_MAX = 64;

interface Reads {
  hits: number;
  joined: number;
  fetched: number;
  failed: number;
  bytes: number;
}

interface Slow {
  readonly read: AnsweredRead;
  readonly atMs: number;
}

export class Activity implements FlowObserver {
  readonly #clock: Clock;
  readonly #reads = noReads();
  readonly #fetchedBytes: Record<Urgency, number> = { demand: 0, ahead: 0, prefetch: 0 };
  #wastedBytes = 0;
  #failedFills = 0;
  readonly #objects = new LRUCache<string, Reads>({ max: OBJECTS_MAX });
  /** The slowest first. */
  #slow: Slow[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  answered(read: AnsweredRead): void {
    count(this.#reads, read);
    const id = objectId(read);
    let own = this.#objects.get(id);
    if (own === undefined) {
      own = noReads();
      this.#objects.set(id, own);
    }
    count(own, read);
    if (read.found === "hit") return;
    const nowMs = this.#clock.nowMs();
    const last = this.#slow.at(-1);
    const isFull = this.#slow.length >= SLOW_MAX;
    if (isFull && last !== undefined && last.read.elapsedMs >= read.elapsedMs) {
      if (nowMs - last.atMs < SLOW_KEPT_MS) return;
    }
    const kept = this.#slow.filter(({ atMs }) => nowMs - atMs < SLOW_KEPT_MS);
    const at = kept.findIndex((each) => each.read.elapsedMs < read.elapsedMs);
    kept.splice(at === -1 ? kept.length : at, 0, { read, atMs: nowMs });
    this.#slow = kept.slice(0, SLOW_MAX);
  }

  fetched(urgency: Urgency, bytes: number): void {
    this.#fetchedBytes[urgency] += bytes;
  }

  fillEnded({ code, wastedBytes }: EndedFill): void {
    this.#wastedBytes += wastedBytes;
    if (code !== undefined && code !== "cancelled") this.#failedFills += 1;
  }

  phase(): void {
    // Of no use here.
  }

  report(engine: Pick<Engine, "openObjects" | "waiting" | "load">): ActivityAnswer {
    const nowMs = this.#clock.nowMs();
    const waiting = [...engine.waiting()].sort((a, b) => a.sinceMs - b.sinceMs);
    const slow = this.#slow.filter(({ atMs }) => nowMs - atMs < SLOW_KEPT_MS);
    return {
      nowMs,
      reads: { ...this.#reads },
      fetchedBytes: { ...this.#fetchedBytes },
      wastedBytes: this.#wastedBytes,
      failedFills: this.#failedFills,
      fillsInFlight: engine.load.flights,
      waitingReads: waiting.length,
      waiting: waiting.slice(0, WAITING_SHOWN_MAX).map(({ cookieKey, extent, sinceMs }) => ({
        fsid: cookieKey,
        ...extent,
        waitedMs: nowMs - sinceMs,
      })),
      slow: slow.map(({ read, atMs }) => ({
        id: read.id,
        fsid: read.cookieKey,
        ...read.extent,
        waitedMs: read.elapsedMs,
        agoMs: nowMs - atMs,
        ...(read.code === undefined ? {} : { code: read.code }),
      })),
      objects: engine.openObjects.map(({ volumeKey, cookieKey, cachedBytes, sizeBytes }) => ({
        fsid: cookieKey,
        volume: volumeKey,
        cachedBytes,
        sizeBytes,
        reads: { ...(this.#objects.get(objectId({ volumeKey, cookieKey })) ?? noReads()) },
      })),
    };
  }
}

function noReads(): Reads {
  return { hits: 0, joined: 0, fetched: 0, failed: 0, bytes: 0 };
}

function count(reads: Reads, { found, code, extent }: AnsweredRead): void {
  if (code !== undefined) reads.failed += 1;
  else if (found === "hit") reads.hits += 1;
  else reads[found] += 1;
  reads.bytes += extent.length;
}

function objectId(of: { readonly volumeKey: string; readonly cookieKey: string }): string {
  return `${of.volumeKey}\0${of.cookieKey}`;
}
