// SPDX-License-Identifier: Apache-2.0
// What failed a moment ago. The kernel asks again at once for what we failed (first the whole
// readahead, then the single page), and the second answer must not take a second deadline.

import { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import { type Extent, overlaps } from "../units.ts";

/** How long a failure answers for the same bytes. */
const MEMORY_MS = 1000;
const ENTRIES_MAX = 256;

interface Entry {
  readonly extent: Extent;
  readonly error: DaemonError;
  readonly untilMs: number;
}

export class FailureMemory {
  readonly #clock: Clock;
  #entries: Entry[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Remembers that `extent` failed; the oldest entry goes when there are too many. */
  remember(extent: Extent, error: DaemonError): void {
    if (extent.length === 0) return;
    this.#dropExpired();
    if (this.#entries.length >= ENTRIES_MAX) this.#entries.shift();
    this.#entries.push({ extent, error, untilMs: this.#clock.nowMs() + MEMORY_MS });
  }

  /** The failure that covers part of one of `extents`, if any is remembered. */
  find(extents: readonly Extent[]): DaemonError | undefined {
    if (this.#entries.length === 0) return undefined;
    this.#dropExpired();
    const entry = this.#entries.find((known) =>
      extents.some((extent) => overlaps(known.extent, extent)),
    );
    if (entry === undefined) return undefined;
    return new DaemonError(
      {
        code: "failed_recently",
        what: `reading ${entry.extent.length} bytes at ${entry.extent.offset}`,
        detail: entry.error.message,
      },
      { cause: entry.error },
    );
  }

  #dropExpired(): void {
    const now = this.#clock.nowMs();
    this.#entries = this.#entries.filter((entry) => entry.untilMs > now);
  }
}
