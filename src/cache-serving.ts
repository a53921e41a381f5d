// SPDX-License-Identifier: Apache-2.0
// What the control socket can do to the cache and to the configuration, over the daemon's rooms.

import { cachedFilesOf } from "./cached-files.ts";
import { viewConfig } from "./config/config-view.ts";
import type { Config } from "./config/config.ts";
import { changeLive } from "./config/live-config.ts";
import { type CacheOperations, cacheOperations } from "./control/cache-operations.ts";
import type { ControlOperations } from "./control/control-operations.ts";
import type { KnownImages } from "./control/known-images.ts";
import type { OpenDoor } from "./doors.ts";
import type { NameResolver } from "./flow/name-resolver.ts";
import type { Prefetcher } from "./flow/prefetch/prefetcher.ts";
import type { Prefetches } from "./flow/prefetch/prefetches.ts";
import type { Mounts } from "./mounts/mounts.ts";
import type { RootLog } from "./platform/log.ts";
import type { Rooms } from "./rooms.ts";

export interface CacheServingParts {
  readonly config: Config;
  readonly log: RootLog["log"];
  readonly rooms: Pick<Rooms, "engine" | "bindings" | "hedges">;
  readonly opened: OpenDoor;
  readonly names: NameResolver;
  readonly images: KnownImages;
  readonly mounts: Mounts;
  readonly prefetches: Prefetches;
  readonly prefetcher: Prefetcher;
}

export function cacheServing(parts: CacheServingParts): {
  readonly cache: CacheOperations;
  readonly changeConfig: ControlOperations["changeConfig"];
} {
  const { config, log, rooms, opened, names, images, mounts, prefetches, prefetcher } = parts;
  const { engine, bindings, hedges } = rooms;
  const cacheDir = config.cache.dir;
  const cache = cacheOperations({
    cached: cachedFilesOf(opened, { cacheDir, engine }),
    images,
    bindings,
    names,
    prefetches,
    isOpen: ({ volumeKey, cookieKey }) => engine.isOpen(volumeKey, cookieKey),
    mountsOf: mounts.mountsOf.bind(mounts),
    unixMs: Date.now,
  });
  const effects = {
    logLevel: (level: Config["log"]["level"]) => {
      log.level = level;
    },
    prefetchBandwidth: prefetcher.limitBandwidth.bind(prefetcher),
    windows: engine.setWindows.bind(engine),
    hedgePercent: hedges.set.bind(hedges),
  };
  return {
    cache,
    changeConfig(changes) {
      changeLive(config, changes, effects);
      log.info({ changes }, "the configuration was changed, until the daemon stops");
      return viewConfig(config);
    },
  };
}
