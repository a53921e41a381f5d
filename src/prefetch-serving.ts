// SPDX-License-Identifier: Apache-2.0
// Prefetch of images that nobody needs to have mounted, at whichever door is open.

import { join } from "node:path";
import { cullFile } from "./cache/cull.ts";
import type { Config } from "./config/config.ts";
import type { OpenDoor } from "./doors.ts";
import type { NameResolver } from "./flow/name-resolver.ts";
import { findWanted } from "./flow/prefetch/find-wanted.ts";
import type { StreamHolder } from "./flow/prefetch/job.ts";
import type { Prefetcher } from "./flow/prefetch/prefetcher.ts";
import { Prefetches } from "./flow/prefetch/prefetches.ts";
import { IdleFiles } from "./idle-files.ts";
import type { KernelHandler } from "./kernel/transport.ts";
import type { FileDoor } from "./kernel/fanotify/file-door.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";
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

/** How streams are filled that nobody has mounted, and what is asked before the door's handler is. */
export interface Filling {
  readonly holder: StreamHolder;
  readonly before: (handler: KernelHandler) => KernelHandler;
}

export function fillingOf(
  opened: OpenDoor,
  parts: Pick<PrefetchServingParts, "config" | "log"> & {
    readonly rooms: Pick<Rooms, "engine" | "seedFiles">;
    readonly native: Native;
    readonly names: NameResolver;
  },
): Filling {
  if (opened.kind !== "cachefiles") {
    return { holder: fileHolder(opened.door), before: (handler) => handler };
  }
  const { config, rooms, native, names, log } = parts;
  const { command, door } = opened;
  const seeds = rooms.seedFiles(command);
  const idle = new IdleFiles({
    cacheDir: config.cache.dir,
    native,
    log,
    engine: rooms.engine,
    names,
    place: (object) => seeds.seed([object]),
    cull: (file) => cullFile({ command }, file),
    stopPercent: { blocks: config.cache.bstop, inodes: config.cache.fstop },
    writes: door.writes,
  });
  return { holder: idle, before: idle.before.bind(idle) };
}

/** Files of a door of files, open for as long as they are filled. */
function fileHolder(door: Pick<FileDoor, "open">): StreamHolder {
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
