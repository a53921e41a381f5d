// SPDX-License-Identifier: Apache-2.0
// What a stream's readers waited for and what was fetched of it since it was opened, for whoever
// wants to see how a program started. The first of both are kept, in arrays that grow as they come,
// and all streams together keep no more than a fixed number: what comes later is only counted. Some
// numbers are written where a fetch takes a round trip, so it is always on.

import type { Extent, Urgency } from "../units.ts";

/** Of one stream, of each kind. */
const ENTRIES_MAX = 4096;
/** Of all: some 40 MB. */
const SPACE_MAX = 1_000_000;
const FIELDS = 5;
const GROWTH = 64;

const URGENCIES = ["demand", "ahead", "prefetch"] as const satisfies readonly Urgency[];

export interface HistoryEntry extends Extent {
  /** On the engine's clock. */
  readonly sinceMs: number;
  readonly untilMs: number;
}

export interface HistoryFill extends HistoryEntry {
  readonly urgency: Urgency;
}

/** How many entries may still be kept, of all streams. */
export class HistorySpace {
  #left: number;

  constructor(entriesMax = SPACE_MAX) {
    this.#left = entriesMax;
  }

  take(): boolean {
    if (this.#left === 0) return false;
    this.#left -= 1;
    return true;
  }

  give(count: number): void {
    this.#left += count;
  }
}

interface Span {
  readonly sinceMs: number;
  readonly untilMs: number;
}

export class StreamHistory {
  readonly #waits: Entries;
  readonly #fills: Entries;

  constructor(space: HistorySpace) {
    this.#waits = new Entries(space);
    this.#fills = new Entries(space);
  }

  /** A reader waited for it. */
  waited(extent: Extent, span: Span): void {
    this.#waits.add(extent, span, 0);
  }

  filled(extent: Extent, urgency: Urgency, span: Span): void {
    this.#fills.add(extent, span, URGENCIES.indexOf(urgency));
  }

  /** As they ended; `later`: how many more there were. */
  get waits(): { readonly entries: readonly HistoryEntry[]; readonly later: number } {
    const entries = [...this.#waits.all()].map(({ entry }) => entry);
    return { entries, later: this.#waits.later };
  }

  get fills(): { readonly entries: readonly HistoryFill[]; readonly later: number } {
    const entries = [...this.#fills.all()].map(({ entry, kind }) => {
      return { ...entry, urgency: URGENCIES[kind] ?? "prefetch" };
    });
    return { entries, later: this.#fills.later };
  }

  /** The stream is closed: its place is free for others. */
  forget(): void {
    this.#waits.clear();
    this.#fills.clear();
  }
}

class Entries {
  readonly #space: HistorySpace;
  #numbers = new Float64Array(0);
  #count = 0;
  later = 0;

  constructor(space: HistorySpace) {
    this.#space = space;
  }

  add({ offset, length }: Extent, { sinceMs, untilMs }: Span, kind: number): void {
    if (this.#count >= ENTRIES_MAX || !this.#space.take()) {
      this.later += 1;
      return;
    }
    const at = this.#count * FIELDS;
    if (at === this.#numbers.length) {
      const grown = new Float64Array(Math.max(2 * at, GROWTH * FIELDS));
      grown.set(this.#numbers);
      this.#numbers = grown;
    }
    this.#numbers.set([offset, length, sinceMs, untilMs, kind], at);
    this.#count += 1;
  }

  *all(): Generator<{ readonly entry: HistoryEntry; readonly kind: number }, void> {
    for (let at = 0; at < this.#count * FIELDS; at += FIELDS) {
      const [offset = 0, length = 0, sinceMs = 0, untilMs = 0, kind = 0] = this.#numbers.subarray(
        at,
        at + FIELDS,
      );
      yield { entry: { offset, length, sinceMs, untilMs }, kind };
    }
  }

  clear(): void {
    this.#space.give(this.#count);
    this.#numbers = new Float64Array(0);
    this.#count = 0;
    this.later = 0;
  }
}
