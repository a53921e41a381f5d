// SPDX-License-Identifier: Apache-2.0
// Prefetch of images that nobody needs to have mounted, at whichever door is open.

import { join } from "node:path";
import type { Config } from "./config/config.ts";
import { findWanted } from "./flow/prefetch/find-wanted.ts";
import type { StreamHolder } from "./flow/prefetch/job.ts";
import type { Prefetcher } from "./flow/prefetch/prefetcher.ts";
import { Prefetches } from "./flow/prefetch/prefetches.ts";
import type { FileDoor } from "./kernel/fanotify/file-door.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Rooms } from "./rooms.ts";
import { PrefetchStore } from "./state/prefetch-store.ts";

export interface PrefetchServingParts {
  readonly config: Config;
  readonly rooms: Pick<Rooms, "engine" | "bindings" | "store" | "streams">;
  readonly prefetcher: Prefetcher;
  readonly holder: StreamHolder;
  readonly log: Log;
}

export function buildPrefetches({ config, rooms, prefetcher, holder, log }: PrefetchServingParts) {
  const { engine, bindings, store, streams } = rooms;
  prefetcher.limitBandwidth(config.prefetch.bandwidth);
  const finding = {
    bootstrapDirectory: store.bootstrapDirectory,
    openStream: streams.open.bind(streams),
    nowMs: () => clock.nowMs(),
  };
  return new Prefetches({
    engine,
    prefetcher,
    holder,
    bindingOf: (name) => bindings.get(name),
    findWanted: ({ what }, binding, signal) => findWanted(finding, { binding, what, signal }),
    store: new PrefetchStore(join(config.cache.dir, "state", "prefetches")),
    clock,
    log,
    unixMs: Date.now,
    runningMax: config.prefetch.jobs,
  });
}

/** Files of a door of files, open for as long as they are filled. */
export function fileHolder(door: Pick<FileDoor, "open">): StreamHolder {
  return {
    async open(name) {
      const { release } = await door.open(name);
      return {
        release: () => {
          release(0);
        },
      };
    },
  };
}

/** Where the kernel has to have a file open before it can be filled. */
export const whenMounted: StreamHolder = {
  open: () => Promise.resolve({ release: () => undefined }),
};
