// SPDX-License-Identifier: Apache-2.0
// A circuit breaker for one host or proxy: counts failures in a row, and says whether to go on
// asking. Who soon fails again after it was well again rests for longer. Pure: the time is an argument.
//
//   closed --FAILURES_MAX failures in a row--> open --a probe was answered--> half-open
//   half-open --a request was served--> closed; --one failed--> open, for twice as long

const FAILURES_MAX = 3;
const COOL_DOWN_MS = 1_000;
const COOL_DOWN_MAX_MS = 30_000;
/** Failing again within so many of its last rests is failing soon. */
const SOON_RESTS = 4;

export type BreakerState = "closed" | "open" | "half-open";

export class Breaker {
  #state: BreakerState = "closed";
  #failures = 0;
  #coolDownMs = COOL_DOWN_MS;
  #reopensMs = 0;
  #closedMs = Number.NEGATIVE_INFINITY;

  get state(): BreakerState {
    return this.#state;
  }

  /** In a row. */
  get failures(): number {
    return this.#failures;
  }

  /** How long until somebody should look again; 0 unless it is open. */
  restMs(nowMs: number): number {
    return this.#state === "open" ? Math.max(0, this.#reopensMs - nowMs) : 0;
  }

  succeeded(nowMs: number): void {
    if (this.#state !== "closed") this.#closedMs = nowMs;
    this.#state = "closed";
    this.#failures = 0;
  }

  /** `isProbe`: it was sent to find out; others that were under way say nothing new. */
  failed(nowMs: number, isProbe: boolean): void {
    this.#failures += 1;
    if (this.#state === "closed" ? this.#failures >= FAILURES_MAX : isProbe) this.trip(nowMs);
  }

  /** Something worse than a failure. any state -> open */
  trip(nowMs: number): void {
    const isSoon =
      this.#state !== "closed" || nowMs - this.#closedMs < SOON_RESTS * this.#coolDownMs;
    this.#coolDownMs = isSoon ? Math.min(this.#coolDownMs * 2, COOL_DOWN_MAX_MS) : COOL_DOWN_MS;
    this.#state = "open";
    this.#reopensMs = nowMs + this.#coolDownMs;
  }

  /** open -> half-open: it answers, but has not served yet. */
  answered(): void {
    if (this.#state === "open") this.#state = "half-open";
  }
}
