// SPDX-License-Identifier: Apache-2.0
// A clock that moves only when a test says so. Timers run in the order of their time; between
// two of them promises get their turn, so that code under test sees time pass step by step.

import type { Clock } from "../../src/platform/clock.ts";

interface Timer {
  readonly id: number;
  readonly atMs: number;
  readonly delayMs: number;
  readonly run: () => void;
}

interface Waiter {
  readonly matches: (delayMs: number) => boolean;
  readonly resolve: () => void;
}

export class FakeClock implements Clock {
  #nowMs: number;
  #nextId = 0;
  #timers: readonly Timer[] = [];
  #waiters: readonly Waiter[] = [];

  constructor(startMs = 1_000) {
    this.#nowMs = startMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): () => void {
    const timer = { id: this.#nextId++, atMs: this.#nowMs + delayMs, delayMs, run };
    this.#timers = [...this.#timers, timer].sort((a, b) => a.atMs - b.atMs || a.id - b.id);
    for (const waiter of this.#waiters) {
      if (waiter.matches(delayMs)) waiter.resolve();
    }
    this.#waiters = this.#waiters.filter(({ matches }) => !matches(delayMs));
    return () => {
      this.#timers = this.#timers.filter(({ id }) => id !== timer.id);
    };
  }

  /** Timers set and neither run nor cancelled; a test of tidiness expects 0. */
  get pendingCount(): number {
    return this.#timers.length;
  }

  /** How long each pending timer was set for, soonest first. */
  get pendingDelaysMs(): readonly number[] {
    return this.#timers.map(({ delayMs }) => delayMs);
  }

  /** Settles when a timer with such a delay is pending. */
  timerSet(matches: (delayMs: number) => boolean): Promise<void> {
    if (this.#timers.some(({ delayMs }) => matches(delayMs))) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiters = [...this.#waiters, { matches, resolve }];
    });
  }

  /** Lets `durationMs` pass. */
  async advance(durationMs: number): Promise<void> {
    const endMs = this.#nowMs + durationMs;
    await turn();
    for (;;) {
      const [next] = this.#timers;
      if (next === undefined || next.atMs > endMs) break;
      await this.#runNext(next);
    }
    this.#nowMs = endMs;
    await turn();
  }

  /**
   * Lets time pass, from timer to timer, until `work` settles, and returns what it settled to.
   * Fails when `budgetMs` have passed, or when nothing is left that could settle it. Only for
   * work without real I/O.
   */
  async runUntil<T>(work: Promise<T>, budgetMs = 3_600_000): Promise<T> {
    const endMs = this.#nowMs + budgetMs;
    const progress = { settled: false };
    const settle = (): void => {
      progress.settled = true;
    };
    work.then(settle, settle);
    await turn();
    while (!progress.settled) {
      const [next] = this.#timers;
      if (next === undefined) throw new Error("nothing is left to wait for");
      if (next.atMs > endMs) throw new Error(`not settled after ${budgetMs} virtual ms`);
      await this.#runNext(next);
    }
    return await work;
  }

  async #runNext(timer: Timer): Promise<void> {
    this.#nowMs = Math.max(this.#nowMs, timer.atMs);
    this.#timers = this.#timers.filter(({ id }) => id !== timer.id);
    timer.run();
    await turn();
  }
}

/** All promises that can go on have gone on. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
