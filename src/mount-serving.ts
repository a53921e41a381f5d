// SPDX-License-Identifier: Apache-2.0
// What mounts for whoever asks the daemon, put together of its rooms.

import type { Config } from "./config/config.ts";
import type { EventHub } from "./control/event-hub.ts";
import { mountObserver } from "./control/observe.ts";
import type { FailureLog } from "./control/operations.ts";
import type { NameResolver } from "./flow/name-resolver.ts";
import { startMountChild } from "./kernel/mount-child.ts";
import { MountTable } from "./kernel/mount-table.ts";
import type { MountDoors } from "./mount-doors.ts";
import { MountWatch } from "./mounts/mount-watch.ts";
import { Mounts } from "./mounts/mounts.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";
import type { Rooms } from "./rooms.ts";

export function buildMounts(parts: {
  readonly config: Config;
  readonly native: Native;
  readonly log: Log;
  readonly rooms: Rooms;
  readonly names: NameResolver;
  readonly doors: MountDoors;
  readonly failures: FailureLog;
  readonly fill: () => void;
  readonly events: EventHub;
  readonly stopping: AbortSignal;
}): { readonly mounts: Mounts; readonly mountWatch: MountWatch } {
  const { config, native, log, rooms, names, doors, failures, fill, events, stopping } = parts;
  const table = new MountTable({ native, clock });
  const mounts = new Mounts({
    log,
    domainId: config.kernel.domain_id,
    cacheDir: config.cache.dir,
    openTimeoutMs: config.limits.open_timeout,
    names,
    bindings: rooms.bindings,
    fill,
    doors,
    startChild: () => startMountChild(clock),
    failureSince: failures.since.bind(failures),
    stopping,
    listEntries: table.entries,
  });
  const list = mounts.list.bind(mounts);
  const tell = mountObserver(events);
  return { mounts, mountWatch: new MountWatch({ clock, log, table, list, tell }) };
}
