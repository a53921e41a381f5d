// SPDX-License-Identifier: Apache-2.0
// Which of the fetches that wait for their turn goes next. Pure.
//
// Demand before read-ahead before prefetch. Within a class whoever has the fewest bytes in the
// air (so that one reader of a huge file does not starve another's first byte), then the earliest
// deadline, then who came first. A host that is busy is passed over; what it leaves free for
// demand the others may not take.

import type { Urgency } from "../units.ts";

/** A fetch: it waits, is in the air, or has come and is being written. */
export interface Candidate {
  readonly host: string;
  readonly urgency: Urgency;
  readonly deadlineMs: number;
  /** Stored bytes that are still to come. */
  readonly bytes: number;
  /** All its stored bytes. */
  readonly storedBytes: number;
  /** Its request is over: the host is free of it. */
  readonly hasCome: boolean;
  /** For whom: its bytes in the air are counted together. */
  readonly group: object;
  /**
   * Read-ahead or prefetch goes while no more stored bytes are to come from its host, and no more
   * than four times as many of them are in memory or will be: what is written slower than it
   * comes, comes no faster for being in memory.
   */
  readonly airBytes: number;
}

export interface TurnLimits {
  /** Requests to one host at once. */
  readonly requestsPerHost: number;
}

const RANK: Readonly<Record<Urgency, number>> = { demand: 0, ahead: 1, prefetch: 2 };
/** Of a host's requests, kept free of read-ahead and prefetch. */
const KEPT_FOR_DEMAND = 2;
const HELD_FACTOR = 4;

/**
 * Undefined: nobody may go now. `waiting` is in the order they came; `held` is what has a place at
 * its host or memory.
 */
export function pickNext<T extends Candidate>(
  waiting: readonly T[],
  held: readonly Candidate[],
  limits: TurnLimits,
): T | undefined {
  let best: T | undefined;
  for (const one of waiting) {
    if (!mayGo(one, held, limits)) continue;
    if (best === undefined || compare(one, best, held) < 0) best = one;
  }
  return best;
}

function mayGo(one: Candidate, held: readonly Candidate[], limits: TurnLimits): boolean {
  const there = held.filter(({ host }) => host === one.host);
  const inAir = there.filter(({ hasCome }) => !hasCome);
  if (inAir.length >= limits.requestsPerHost) return false;
  if (one.urgency === "demand") return true;
  const isBackground = ({ urgency }: Candidate): boolean => urgency !== "demand";
  const requestsMax = Math.max(1, limits.requestsPerHost - KEPT_FOR_DEMAND);
  const requests = inAir.filter(isBackground);
  if (requests.length >= requestsMax) return false;
  const stored = there.filter(isBackground).reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  if (stored > HELD_FACTOR * one.airBytes) return false;
  return sumOf(inAir) <= one.airBytes;
}

function compare(a: Candidate, b: Candidate, held: readonly Candidate[]): number {
  return (
    RANK[a.urgency] - RANK[b.urgency] ||
    bytesOf(a.group, held) - bytesOf(b.group, held) ||
    a.deadlineMs - b.deadlineMs
  );
}

function bytesOf(group: object, held: readonly Candidate[]): number {
  return sumOf(held.filter((one) => one.group === group));
}

function sumOf(candidates: readonly Candidate[]): number {
  return candidates.reduce((sum, { bytes }) => sum + bytes, 0);
}
