// SPDX-License-Identifier: Apache-2.0
// What failed a moment ago. The kernel asks again at once for what we failed (first the whole
// readahead, then the single page), and the second answer must not take a second deadline.

import { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Extent } from "../units.ts";
import { RecentExtents } from "./recent-extents.ts";

/** How long a failure answers for the same bytes. */
const MEMORY_MS = 1000;

export class FailureMemory {
  readonly #recent: RecentExtents<DaemonError>;

  constructor(clock: Clock) {
    this.#recent = new RecentExtents(clock, MEMORY_MS);
  }

  /** Remembers that `extent` failed; the oldest failure goes when there are too many. */
  remember(extent: Extent, error: DaemonError): void {
    if (extent.length > 0) this.#recent.remember(extent, error);
  }

  /** The failure that covers part of one of `extents`, if any is remembered. */
  find(extents: readonly Extent[]): DaemonError | undefined {
    const found = this.#recent.find(extents);
    if (found === undefined) return undefined;
    const { extent, value: error } = found;
    const what = `reading ${extent.length} bytes at ${extent.offset}`;
    const detail = error.message;
    return new DaemonError({ code: "failed_recently", what, detail }, { cause: error });
  }
}
