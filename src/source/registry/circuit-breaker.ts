// SPDX-License-Identifier: Apache-2.0
// Leaves a peer that fails alone for a while, so that nobody waits for it, and lets one request
// through now and then to see whether it is well again. Pauses grow while it fails again soon.
//
//   closed -- failures in a row --> open -- after a pause --> probing -- success --> closed
//                                    ^------------------------- failure --'

import type { Clock } from "../../platform/clock.ts";

const FAILURES_MAX = 3;
const PAUSE_MIN_MS = 5_000;
const PAUSE_MAX_MS = 120_000;

export type BreakerState = "closed" | "open" | "probing";

export interface BreakerParts {
  readonly clock: Clock;
  readonly onChange: (state: BreakerState) => void;
}

export class CircuitBreaker {
  readonly #parts: BreakerParts;
  #state: BreakerState = "closed";
  #failuresInARow = 0;
  #pauseMs = PAUSE_MIN_MS;
  /** When the next probe may go. */
  #untilMs = 0;
  #closedAtMs = Number.NEGATIVE_INFINITY;

  constructor(parts: BreakerParts) {
    this.#parts = parts;
  }

  get state(): BreakerState {
    return this.#state;
  }

  /** Whether it would be asked now; changes nothing. */
  get isClosed(): boolean {
    return this.#state === "closed";
  }

  /** Asked for each request. open -> probing: then one request is let through. */
  allows(): boolean {
    if (this.#state === "closed") return true;
    const nowMs = this.#parts.clock.nowMs();
    if (nowMs < this.#untilMs) return false;
    // A probe that nobody hears of any more does not close the way for ever.
    this.#untilMs = nowMs + this.#pauseMs;
    this.#become("probing");
    return true;
  }

  /** probing -> closed. A request that was made before it opened says nothing. */
  succeeded(): void {
    if (this.#state === "open") return;
    this.#failuresInARow = 0;
    if (this.#state === "probing") this.#closedAtMs = this.#parts.clock.nowMs();
    this.#become("closed");
  }

  /** closed -> open after some of them, probing -> open at once. */
  failed(): void {
    this.#failuresInARow += 1;
    if (this.#state === "probing" || this.#failuresInARow >= FAILURES_MAX) this.trip();
  }

  // any state -> open
  trip(): void {
    if (this.#state === "open") return;
    const nowMs = this.#parts.clock.nowMs();
    const isSoon = this.#state === "probing" || nowMs - this.#closedAtMs < 2 * this.#pauseMs;
    this.#pauseMs = isSoon ? Math.min(PAUSE_MAX_MS, 2 * this.#pauseMs) : PAUSE_MIN_MS;
    this.#failuresInARow = 0;
    this.#untilMs = nowMs + this.#pauseMs;
    this.#become("open");
  }

  #become(state: BreakerState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#parts.onChange(state);
  }
}
