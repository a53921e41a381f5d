// SPDX-License-Identifier: Apache-2.0
// Which of the fetches that wait for their turn goes next. Pure.
//
// Demand before read-ahead before prefetch. Within a class whoever has the fewest bytes in the
// air (so that one reader of a huge file does not starve another's first byte), then the earliest
// deadline, then who came first. A host that is busy is passed over; what it leaves free for
// demand the others may not take.

import type { Urgency } from "../units.ts";

/** A fetch, waiting or in the air. */
export interface Candidate {
  readonly host: string;
  readonly urgency: Urgency;
  readonly deadlineMs: number;
  /** Stored bytes. */
  readonly bytes: number;
  /** For whom: its bytes in the air are counted together. */
  readonly group: object;
  /** Read-ahead and prefetch in the air to its host at most, stored bytes; one request always may be. */
  readonly backgroundBytesMax: number;
}

export interface TurnLimits {
  /** Requests to one host at once. */
  readonly requestsPerHost: number;
}

const RANK: Readonly<Record<Urgency, number>> = { demand: 0, ahead: 1, prefetch: 2 };
/** Of a host's requests, kept free of read-ahead and prefetch. */
const KEPT_FOR_DEMAND = 2;

/** Undefined: nobody may go now. `waiting` is in the order they came. */
export function pickNext<T extends Candidate>(
  waiting: readonly T[],
  inAir: readonly Candidate[],
  limits: TurnLimits,
): T | undefined {
  let best: T | undefined;
  for (const one of waiting) {
    if (!mayGo(one, inAir, limits)) continue;
    if (best === undefined || compare(one, best, inAir) < 0) best = one;
  }
  return best;
}

function mayGo(one: Candidate, inAir: readonly Candidate[], limits: TurnLimits): boolean {
  const there = inAir.filter(({ host }) => host === one.host);
  if (there.length >= limits.requestsPerHost) return false;
  if (one.urgency === "demand") return true;
  const background = there.filter(({ urgency }) => urgency !== "demand");
  const requestsMax = Math.max(1, limits.requestsPerHost - KEPT_FOR_DEMAND);
  if (background.length >= requestsMax) return false;
  if (background.length === 0) return true;
  return sumOf(background) + one.bytes <= one.backgroundBytesMax;
}

function compare(a: Candidate, b: Candidate, inAir: readonly Candidate[]): number {
  return (
    RANK[a.urgency] - RANK[b.urgency] ||
    bytesOf(a.group, inAir) - bytesOf(b.group, inAir) ||
    a.deadlineMs - b.deadlineMs
  );
}

function bytesOf(group: object, inAir: readonly Candidate[]): number {
  return sumOf(inAir.filter((one) => one.group === group));
}

function sumOf(candidates: readonly Candidate[]): number {
  return candidates.reduce((sum, { bytes }) => sum + bytes, 0);
}
