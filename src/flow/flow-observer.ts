// SPDX-License-Identifier: Apache-2.0
// What the engine tells of its work, for metrics and for whoever looks on.

import type { Code } from "../errors.ts";
import type { Extent, Urgency } from "../units.ts";

/**
 * What a fill goes through: waiting for its turn; the source's answer; its bytes; decoding and
 * checking each unit; writing into a cache file; telling the kernel.
 */
export const PHASES = [
  "queue",
  "first_byte",
  "transfer",
  "decode",
  "verify",
  "write",
  "reply",
] as const;
export type Phase = (typeof PHASES)[number];

/**
 * What a READ found. `hit`: all of it cached, which the kernel asks for only at some doors;
 * `joined`: what was missing was on its way; `fetched`: something was fetched for it.
 */
export type Found = "hit" | "joined" | "fetched";

export interface AnsweredRead {
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly streamKey: string;
  readonly host: string;
  readonly extent: Extent;
  readonly found: Found;
  readonly elapsedMs: number;
  /** Why it failed; undefined: it got its bytes. */
  readonly code: Code | undefined;
}

export interface EndedFill {
  readonly host: string;
  /** As it was launched. */
  readonly urgency: Urgency;
  /** What went wrong first; `cancelled`: nobody wanted it any more. */
  readonly code: Code | undefined;
  /** Stored bytes that came and were thrown away: bad, or of a fill that was given up. */
  readonly wastedBytes: number;
}

/** Called often: each method is cheap and does not throw. Times in milliseconds. */
export interface FlowObserver {
  answered(read: AnsweredRead): void;
  /** Stored bytes have come from the source, for a fill launched so. */
  fetched(urgency: Urgency, bytes: number): void;
  fillEnded(fill: EndedFill): void;
  phase(phase: Phase, elapsedMs: number): void;
}

/** Tells several. */
export function observers(...all: readonly FlowObserver[]): FlowObserver {
  return {
    answered(read) {
      for (const each of all) each.answered(read);
    },
    fetched(urgency, bytes) {
      for (const each of all) each.fetched(urgency, bytes);
    },
    fillEnded(fill) {
      for (const each of all) each.fillEnded(fill);
    },
    phase(phase, elapsedMs) {
      for (const each of all) each.phase(phase, elapsedMs);
    },
  };
}
