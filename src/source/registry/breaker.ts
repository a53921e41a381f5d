// SPDX-License-Identifier: Apache-2.0
// A circuit breaker for one host: counts failures in a row, and says whether to go on asking.
// Pure: the time is an argument.
//
//   closed --FAILURES_MAX failures in a row--> open --a probe was answered--> half-open
//   half-open --a request was served--> closed; --one failed--> open, for twice as long

const FAILURES_MAX = 3;
const COOL_DOWN_MS = 1_000;
const COOL_DOWN_MAX_MS = 30_000;

export type BreakerState = "closed" | "open" | "half-open";

export class Breaker {
  #state: BreakerState = "closed";
  #failures = 0;
  #coolDownMs = COOL_DOWN_MS;
  #reopensMs = 0;

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

  succeeded(): void {
    this.#state = "closed";
    this.#failures = 0;
    this.#coolDownMs = COOL_DOWN_MS;
  }

  /** `isProbe`: it was sent to find out; others that were under way say nothing new. */
  failed(nowMs: number, isProbe: boolean): void {
    this.#failures += 1;
    if (this.#state === "closed") {
      if (this.#failures >= FAILURES_MAX) this.#open(nowMs);
    } else if (isProbe) {
      this.#coolDownMs = Math.min(this.#coolDownMs * 2, COOL_DOWN_MAX_MS);
      this.#open(nowMs);
    }
  }

  /** open -> half-open: it answers, but has not served yet. */
  answered(): void {
    if (this.#state === "open") this.#state = "half-open";
  }

  #open(nowMs: number): void {
    this.#state = "open";
    this.#reopensMs = nowMs + this.#coolDownMs;
  }
}
