// SPDX-License-Identifier: Apache-2.0
// Which way a fetch goes first, and when the other way starts: decided from who waits for the
// bytes and from what both ways have shown of themselves. Pure.
//
//   demand           peers, the registry a moment later; or the registry, and peers when it is late
//   ahead, prefetch  peers, the registry when they fail or are far too slow

import type { Urgency } from "../source.ts";
import type { Via } from "./latency-history.ts";

export interface LanePlan {
  readonly first: Via;
  /** The other way starts after so long without a byte, or as soon as the first one fails. */
  readonly delayMs: number;
  /** The same, once somebody waits for what was asked for nobody. */
  readonly hurriedMs: number;
  /** It also takes over where the first one pauses for so long in mid-body. */
  readonly stallMs: number;
}

export interface LaneFacts {
  readonly urgency: Urgency;
  /** First bytes straight from the registry, for demand; undefined: not known yet. */
  readonly directMedianMs: number | undefined;
  readonly directLateMs: number | undefined;
  /** First bytes of demand requests that peers won. */
  readonly peersMedianMs: number | undefined;
  /** First bytes, mostly, of requests that nobody waited for, from peers. */
  readonly peersUnhurriedMs: number | undefined;
  /** Peers have shown that they hardly ever win a demand race, and nothing speaks for this one. */
  readonly peersHopeless: boolean;
  /** How long a fetch that nobody waits for may wait for peers. */
  readonly patienceMs: number;
  readonly remainingMs: number;
}

/**
 * Of the registry's own time, the part that a reader gives peers first. With what both lanes cost
 * this side it stays well below a third.
 */
const HEAD_START_SHARE = 0.15;
const HEAD_START_MS = { min: 1, unknown: 2, max: 25 };
const LATE_UNKNOWN_MS = 500;
const HURRIED = { minMs: 5, margin: 1.5, directUnknownMs: 30, unknownFactor: 3, mostFactor: 10 };
const STALL_SHARE = 4;
const STALL_MS = { min: 250, max: 2_000 };

export function planLanes(facts: LaneFacts): LanePlan {
  const { urgency, patienceMs, remainingMs } = facts;
  if (urgency !== "demand") {
    // Half of what is left is enough for the registry, if peers never come.
    const boundMs = Math.min(patienceMs, remainingMs / 2);
    const hurriedMs = Math.min(hurriedAfterMs(facts), boundMs);
    return { first: "peers", delayMs: boundMs, hurriedMs, stallMs: boundMs };
  }
  const stallMs = stallAfterMs(facts.directLateMs);
  if (facts.peersHopeless) {
    const delayMs = facts.directLateMs ?? LATE_UNKNOWN_MS;
    return { first: "direct", delayMs, hurriedMs: delayMs, stallMs };
  }
  const delayMs = headStartMs(facts);
  return { first: "peers", delayMs, hurriedMs: delayMs, stallMs };
}

/**
 * A reader who catches up with read-ahead waits as long as peers mostly take, and a bit: to ask the
 * registry for all that he catches up with would leave nothing to share. Not where that would be
 * many times what the registry takes.
 */
function hurriedAfterMs({ directMedianMs, peersUnhurriedMs }: LaneFacts): number {
  const direct = directMedianMs ?? HURRIED.directUnknownMs;
  const peers = peersUnhurriedMs ?? HURRIED.unknownFactor * direct;
  const mostMs = HURRIED.mostFactor * direct;
  return peers > mostMs ? HURRIED.minMs : clamp(HURRIED.margin * peers, HURRIED.minMs, mostMs);
}

/** A pause in a body after which a reader is better served from elsewhere. */
export function stallAfterMs(lateMs: number | undefined): number {
  return clamp(STALL_SHARE * (lateMs ?? LATE_UNKNOWN_MS), STALL_MS.min, STALL_MS.max);
}

/** No longer than peers need when they have the bytes, and never more than the share. */
function headStartMs({ directMedianMs, peersMedianMs }: LaneFacts): number {
  if (directMedianMs === undefined) return HEAD_START_MS.unknown;
  const shareMs = clamp(directMedianMs * HEAD_START_SHARE, HEAD_START_MS.min, HEAD_START_MS.max);
  return Math.min(shareMs, Math.max(HEAD_START_MS.min, 2 * (peersMedianMs ?? shareMs)));
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), max);
}
