// SPDX-License-Identifier: Apache-2.0
// What is known of extents for a while: bounded, the oldest goes first. Pure but for its clock.

import type { Clock } from "../platform/clock.ts";
import { type Extent, overlaps } from "../units.ts";

const ENTRIES_MAX = 256;

interface Entry<T> {
  readonly extent: Extent;
  readonly value: T;
  readonly untilMs: number;
}

export class RecentExtents<T> {
  readonly #clock: Clock;
  readonly #keptMs: number;
  #entries: Entry<T>[] = [];

  /** What is remembered is kept for `keptMs`. */
  constructor(clock: Clock, keptMs: number) {
    this.#clock = clock;
    this.#keptMs = keptMs;
  }

  remember(extent: Extent, value: T): void {
    this.#dropExpired();
    if (this.#entries.length >= ENTRIES_MAX) this.#entries.shift();
    this.#entries.push({ extent, value, untilMs: this.#clock.nowMs() + this.#keptMs });
  }

  /** The oldest that shares a byte with one of `extents`. */
  find(extents: readonly Extent[]): Pick<Entry<T>, "extent" | "value"> | undefined {
    if (this.#entries.length === 0) return undefined;
    this.#dropExpired();
    return this.#entries.find((known) => extents.some((extent) => overlaps(known.extent, extent)));
  }

  /** Whatever shares a byte with `extent`. */
  forget(extent: Extent): void {
    this.#entries = this.#entries.filter((known) => !overlaps(known.extent, extent));
  }

  #dropExpired(): void {
    const nowMs = this.#clock.nowMs();
    this.#entries = this.#entries.filter(({ untilMs }) => untilMs > nowMs);
  }
}
