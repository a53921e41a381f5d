// SPDX-License-Identifier: Apache-2.0
// What came with wrong bytes and is fetched again, for as long as a reader may wait: at once from
// elsewhere, then after pauses that grow. Whoever asks for it in a pause waits for its end, so a blob
// that is damaged itself is asked for seldom, however many read it.

import type { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Extent } from "../units.ts";
import { RecentExtents } from "./recent-extents.ts";

const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 2000;
/** Wrong bytes are another matter when the last ones came longer ago. */
const KNOWN_MS = 10_000;

interface Known {
  /** Wrong since then, whenever it was tried. */
  readonly sinceMs: number;
  /** Tries that came from elsewhere, and were wrong. */
  readonly tries: number;
}

export class WrongBytes {
  readonly #clock: Clock;
  readonly #patienceMs: number;
  readonly #known: RecentExtents<Known>;
  readonly #pauses = new Set<{ readonly extent: Extent; readonly cancel: () => void }>();

  /** `patienceMs`: for so long a reader's fetch is tried. */
  constructor(clock: Clock, patienceMs: number) {
    this.#clock = clock;
    this.#patienceMs = patienceMs;
    this.#known = new RecentExtents(clock, KNOWN_MS);
  }

  /** What is to be fetched again when its pause is over. */
  get paused(): Extent[] {
    return [...this.#pauses].map(({ extent }) => extent);
  }

  /**
   * `extent` was wrong, from elsewhere too when `isSecondTry`; its newest reader waits since
   * `newestMs`. In how many milliseconds it is to be tried again; undefined: it has been wrong for
   * as long as a reader may wait, or he has waited as long.
   */
  noted(
    extent: Extent,
    { isSecondTry, newestMs }: { readonly isSecondTry: boolean; readonly newestMs: number },
  ): number | undefined {
    const nowMs = this.#clock.nowMs();
    const known = this.#known.find([extent])?.value;
    const sinceMs = known?.sinceMs ?? nowMs;
    const tries = (known?.tries ?? 0) + (isSecondTry ? 1 : 0);
    this.right(extent);
    this.#known.remember(extent, { sinceMs, tries });
    if (!isSecondTry) return 0;
    const leftMs = Math.min(sinceMs, newestMs) + this.#patienceMs - nowMs;
    if (leftMs < 2 * PAUSE_MIN_MS) return undefined;
    // Shorter again towards the end: the last try is to be a late one.
    return Math.min(PAUSE_MIN_MS * 2 ** (tries - 1), PAUSE_MAX_MS, leftMs / 2);
  }

  /** Runs `andThen` after `pauseMs`; until then nobody else is to fetch it. */
  pause(extent: Extent, pauseMs: number, andThen: () => void): void {
    const cancel = this.#clock.after(pauseMs, () => {
      this.#pauses.delete(pause);
      andThen();
    });
    const pause = { extent, cancel };
    this.#pauses.add(pause);
  }

  /** Nothing comes after the pauses there are; returns what they were of. */
  endPauses(): Extent[] {
    const { paused } = this;
    for (const { cancel } of this.#pauses) cancel();
    this.#pauses.clear();
    return paused;
  }

  /** All of `extent` has come as it should. */
  right(extent: Extent): void {
    this.#known.forget(extent);
  }
}

export function isWrongBytes({ fault }: DaemonError): boolean {
  return fault.code === "digest_mismatch" || fault.code === "blob_truncated";
}
