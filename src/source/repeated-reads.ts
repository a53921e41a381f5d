// SPDX-License-Identifier: Apache-2.0
// Which ranges were given a moment ago. What is good is cached, so the same range is asked for
// twice in a row when its bytes were refused: whoever gave them is then not to be asked first.

import { LRUCache } from "lru-cache";
import type { Clock } from "../platform/clock.ts";
import type { Extent } from "../units.ts";

const READS_MAX = 10_000;
const AGAIN_MS = 60_000;

export class RepeatedReads {
  readonly #clock: Clock;
  /** When. */
  readonly #served = new LRUCache<string, number>({ max: READS_MAX });

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The last byte of a range has been given. `what` names the blob. */
  served(what: string, extent: Extent): void {
    this.#served.set(keyOf(what, extent), this.#clock.nowMs());
  }

  /** A range is asked for: true when it has just been given. */
  asked(what: string, extent: Extent): boolean {
    const key = keyOf(what, extent);
    const atMs = this.#served.get(key);
    this.#served.delete(key);
    return atMs !== undefined && this.#clock.nowMs() - atMs < AGAIN_MS;
  }
}

function keyOf(what: string, { offset, length }: Extent): string {
  return `${what} ${offset}+${length}`;
}
