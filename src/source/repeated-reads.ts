// SPDX-License-Identifier: Apache-2.0
// Which ranges were given a moment ago. What is good is cached, so bytes are asked for twice in a
// row when they were refused: whoever gave them is then not to be asked first.

import { LRUCache } from "lru-cache";
import type { Clock } from "../platform/clock.ts";
import { type Extent, overlaps } from "../units.ts";

const BLOBS_MAX = 1024;
const READS_MAX = 256;
const AGAIN_MS = 60_000;

interface Served {
  readonly extent: Extent;
  readonly atMs: number;
}

export class RepeatedReads {
  readonly #clock: Clock;
  /** By blob, oldest first. */
  readonly #served = new LRUCache<string, Served[]>({ max: BLOBS_MAX });

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The last byte of a range has been given. `what` names the blob. */
  served(what: string, extent: Extent): void {
    const reads = this.#served.get(what) ?? [];
    reads.push({ extent, atMs: this.#clock.nowMs() });
    if (reads.length > READS_MAX) reads.shift();
    this.#served.set(what, reads);
  }

  /** A range is asked for: true when some of it has just been given. */
  asked(what: string, extent: Extent): boolean {
    const reads = this.#served.get(what);
    if (reads === undefined) return false;
    const sinceMs = this.#clock.nowMs() - AGAIN_MS;
    const isAgain = (read: Served): boolean => overlaps(read.extent, extent) && read.atMs > sinceMs;
    if (!reads.some(isAgain)) return false;
    this.#served.set(
      what,
      reads.filter((read) => !isAgain(read)),
    );
    return true;
  }
}
