// SPDX-License-Identifier: Apache-2.0
// Completes images that are mounted, while nobody needs the link: each is one prefetch job of all
// its streams. What could not be fetched is tried again later, for as long as the image is open.

import type { Clock } from "../platform/clock.ts";
import type { Binding, Bindings } from "../state/bindings.ts";
import type { Engine } from "./engine.ts";
import type { Prefetcher } from "./prefetch/prefetcher.ts";
import { streamKey } from "./streams.ts";
import { BLOCK_BYTES, alignUp } from "../units.ts";
import type { DeviceExtent } from "../image/erofs/inode.ts";

/** How often images that are not complete are looked at again. */
const LOOK_EVERY_MS = 5 * 60_000;

/** After everything else that is prefetched. */
const OPTIONS = { bandwidthRate: 0, priority: -1, flightsMax: 2 };

export interface BackgroundFillParts {
  readonly engine: Engine;
  readonly bindings: Bindings;
  readonly prefetcher: Prefetcher;
  readonly clock: Clock;
  /** For images that nothing else was said of. */
  readonly fill: NonNullable<Binding["fill"]>;
}

export class BackgroundFill {
  readonly #parts: BackgroundFillParts;
  /** Names of jobs under way. */
  readonly #jobs = new Set<string>();
  #cancelLook: (() => void) | undefined;

  constructor(parts: BackgroundFillParts) {
    this.#parts = parts;
    parts.engine.onOpened(() => {
      this.look();
    });
  }

  /** Starts what is to be filled and not under way, and ends what nobody has open any more. */
  look(): void {
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    const { prefetcher, clock } = this.#parts;
    const wanted = new Map(this.#wanted());
    for (const job of this.#jobs) {
      if (wanted.has(job)) continue;
      prefetcher.cancel(job);
      this.#jobs.delete(job);
    }
    for (const [job, streams] of wanted) {
      const isUnderWay = this.#jobs.has(job) && prefetcher.counters(job)?.endedAtMs === undefined;
      if (isUnderWay || this.#isComplete(streams)) continue;
      this.#jobs.add(job);
      const ignore = (): void => undefined;
      const plan = { streams, extents: wholeOf(streams), onFailure: ignore, onEnd: ignore };
      prefetcher.startPlan(job, plan, OPTIONS);
    }
    if (wanted.size === 0) return;
    this.#cancelLook = clock.after(LOOK_EVERY_MS, () => {
      this.look();
    });
  }

  stop(): void {
    this.#cancelLook?.();
    this.#cancelLook = undefined;
  }

  *#wanted(): Iterable<[string, Binding["devices"]]> {
    const { engine, bindings, fill } = this.#parts;
    for (const { volumeKey, cookieKey } of engine.openObjects) {
      const binding = bindings.get({ volumeKey, cookieKey });
      if (binding === undefined || (binding.fill ?? fill) !== "background") continue;
      yield [`fill of ${volumeKey}\0${cookieKey}`, [binding.stream, ...binding.devices]];
    }
  }

  #isComplete(streams: Binding["devices"]): boolean {
    return streams.every((record) => {
      const flow = this.#parts.engine.openFlow(streamKey(record));
      return flow !== undefined && [...flow.objects].every(({ blocks }) => blocks.isComplete);
    });
  }
}

async function* wholeOf(streams: Binding["devices"]): AsyncGenerator<DeviceExtent, void> {
  for (const [device, { size }] of streams.entries()) {
    yield { device, offset: 0, length: alignUp(size, BLOCK_BYTES) };
  }
}
