// SPDX-License-Identifier: Apache-2.0
// Which mirror is not to be asked first for which blob: it does not have it, serves it in a wrong
// shape, or has just served bytes that are asked for again. What is good is cached, so the same
// range is asked for twice in a row when its bytes were refused: then the registry's own are
// wanted. All of it passes; the registry itself is never doubted.

import { LRUCache } from "lru-cache";
import type { Code, DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Extent } from "../../units.ts";
import { RepeatedReads } from "../repeated-reads.ts";
import type { Upstream } from "./upstream.ts";

const DOUBTS_MAX = 10_000;
/** For how long a fault makes a mirror doubtful. */
const DOUBTFUL_MS: ReadonlyMap<Code, number> = new Map([
  // A pull-through mirror serves no ranges of a blob until it has fetched it itself.
  ["registry_protocol", 10_000],
  ["blob_not_found", 60_000],
  ["manifest_not_found", 60_000],
  ["registry_unauthorized", 60_000],
  ["blob_truncated", 600_000],
  ["digest_mismatch", 600_000],
]);
const REFUSED_MS = 60_000;

export class BlobDoubts {
  readonly #clock: Clock;
  /** Until when, for an upstream and what it should have. */
  readonly #doubts = new LRUCache<string, number>({ max: DOUBTS_MAX });
  /** Until when, for all mirrors of a blob. */
  readonly #refused = new LRUCache<string, number>({ max: DOUBTS_MAX });
  readonly #repeats: RepeatedReads;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#repeats = new RepeatedReads(clock);
  }

  /** `what` names the blob or manifest. */
  isDoubted(upstream: Upstream, what: string): boolean {
    if (!upstream.isMirror) return false;
    const untilMs = Math.max(
      this.#doubts.get(keyOf(upstream, what)) ?? 0,
      this.#refused.get(what) ?? 0,
    );
    return untilMs > this.#clock.nowMs();
  }

  failed(upstream: Upstream, what: string, error: DaemonError): void {
    const durationMs = DOUBTFUL_MS.get(error.fault.code);
    if (durationMs === undefined || !upstream.isMirror) return;
    this.#doubts.set(keyOf(upstream, what), this.#clock.nowMs() + durationMs);
  }

  /** All bytes of a range were given, and a mirror may have given some. */
  served(what: string, extent: Extent): void {
    this.#repeats.served(what, extent);
  }

  /** A range is asked for. `wasBad`: somebody says that its bytes were; else it is noticed here. */
  asked(what: string, extent: Extent, wasBad: boolean): void {
    const isRepeated = this.#repeats.asked(what, extent);
    if (wasBad || isRepeated) this.#refused.set(what, this.#clock.nowMs() + REFUSED_MS);
  }
}

function keyOf({ baseUrl }: Upstream, what: string): string {
  return `${baseUrl.href} ${what}`;
}
