// SPDX-License-Identifier: Apache-2.0
// The composition root: builds the rooms and wires them.
//
//   state -> names and opener -> door -> keeper -> control

import { release } from "node:os";
import { cacheServing } from "./cache-serving.ts";
import type { Config } from "./config/config.ts";
import { parseAddress } from "./config/listen-address.ts";
import { Activity } from "./control/activity.ts";
import type { ControlOperations } from "./control/control-operations.ts";
import { EventHub } from "./control/event-hub.ts";
import { imageFilesOf } from "./control/image-files.ts";
import { imageHistoryOf } from "./control/image-history.ts";
import { KnownImages } from "./control/known-images.ts";
import { bindingObserver, failureObserver } from "./control/observe.ts";
import { FailureLog, Readiness, controlOperations } from "./control/operations.ts";
import type { Status } from "./control/schema.ts";
import { prefetchOperations } from "./control/prefetch-operations.ts";
import { PeerCheck } from "./control/peers.ts";
import { ControlServer, type TCPAccess } from "./control/server.ts";
import { TokenCheck } from "./control/token.ts";
import { TraceRecorder } from "./control/trace-recorder.ts";
import { type CountingDoor, type OpenDoor, openDoor } from "./doors.ts";
import { asDaemonError } from "./errors.ts";
import { Admission } from "./flow/admission.ts";
import { BackgroundFill } from "./flow/background-fill.ts";
import type { Engine } from "./flow/engine.ts";
import { NameResolver, type NameResolverParts } from "./flow/name-resolver.ts";
import { Opener, type OpenerParts } from "./flow/open-image.ts";
import type { Prefetches } from "./flow/prefetch/prefetches.ts";
import { Prefetcher } from "./flow/prefetch/prefetcher.ts";
import { TraceReplays } from "./flow/prefetch/trace-replays.ts";
import { admitReference } from "./flow/rafs/admit-reference.ts";
import { EventJournal } from "./kernel/fanotify/journal.ts";
import { volumeKeyOf } from "./kernel/cachefiles/keys.ts";
import { servesCompressed } from "./kernel/cachefiles/setup.ts";
import { MountDoors } from "./mount-doors.ts";
import { buildMounts } from "./mount-serving.ts";
import type { HeldFds } from "./kernel/keeper.ts";
import { Keeping, takeHeld } from "./keeping.ts";
import type { Life } from "./life.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { RootLog } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";
import { packageVersion } from "./platform/package-root.ts";
import { buildPrefetches, fillingOf } from "./prefetch-serving.ts";
import type { Systemd } from "./platform/systemd.ts";
import { type Rooms, buildRooms } from "./rooms.ts";
import { createReferenceResolver } from "./source/reference-resolver.ts";
import type { CookieName } from "./state/bindings.ts";
import { Watching } from "./watching.ts";

export interface DaemonParts {
  readonly config: Config;
  readonly native: Native;
  readonly log: RootLog["log"];
  readonly systemd: Systemd;
  /** Fds that systemd gave us, by name; whose name is known is taken out. */
  readonly passed: Map<string, readonly number[]>;
  /** The daemon that has made way for this one. */
  readonly follows: number | undefined;
}

export type Serving = Awaited<ReturnType<typeof buildServing>>;

/** Nothing is asked or answered yet: start the door, and listen. Faults: those of state, door and keeper. */
export async function buildServing(parts: DaemonParts, life: Pick<Life, "upgrade">) {
  const { config, native, log, systemd } = parts;
  const held = await takeHeld({ native, log, systemd, cacheDir: config.cache.dir }, parts);
  // At once: what else is opened here must not have these numbers.
  const occupied = EventJournal.occupyLeft(native, held.journal);
  const isAdopted = held.cachefiles !== undefined || held.fanotify !== undefined;
  const failures = new FailureLog();
  const events = new EventHub({ clock, unixMs: Date.now });
  const failed = failureObserver(failures, events);
  const activity = new Activity(clock);
  const watched = { observe: activity, onFillFailure: failed.ofFill };
  const rooms = await buildRooms({ config, native, log, ...watched }, isAdopted);
  const { source, engine, bindings } = rooms;
  const { keeping, ...opened } = await openKeptDoor(parts, { held, occupied });
  const seeds = opened.kind === "cachefiles" ? rooms.seedFiles(opened.command) : undefined;
  const seed: Seeding = async (objects) => seeds?.seed(objects);
  const mayBeMounted = isAdopted
    ? boundBefore(bindings, opened.door)
    : () => Promise.resolve(false);
  const names = buildNames({ config, rooms, log, mayBeMounted, seed });
  const opener = buildOpener({ config, engine, names, log, onFailure: failed.ofOpen });
  const filling = buildFills({ config, rooms, native, log, names, opener, opened });
  const { fills } = filling;
  const doors = new MountDoors({ config, native, log, streams: rooms.streams, opened });
  bindings.observer = bindingObserver(events);
  const { control, ...watching } = await buildControl({
    config,
    native,
    log,
    rooms,
    names,
    door: opened.door,
    doors,
    failures,
    events,
    activity,
    fill: fills.look.bind(fills),
    ...filling,
    opened,
    upgrade: () => life.upgrade(),
  });
  const warmUp = async (): Promise<void> => {
    await rooms.warmUp();
    await watching.watching.began();
  };
  return {
    source,
    engine,
    names,
    opener,
    ...opened,
    doors,
    control,
    warmUp,
    handler: new Admission(opener, engine),
    keeping,
    ...filling,
    ...watching,
  };
}

function buildOpener(parts: {
  readonly config: Config;
  readonly engine: Engine;
  readonly names: NameResolver;
  readonly log: RootLog["log"];
  readonly onFailure: OpenerParts["onFailure"];
}): Opener {
  const { config, ...rest } = parts;
  const domainId = config.kernel.domain_id;
  const volumeKey = volumeKeyOf(domainId);
  return new Opener({
    clock,
    ...rest,
    openTimeoutMs: config.limits.open_timeout,
    volumeProblem: (key) => (key === volumeKey ? undefined : otherVolume(key, domainId)),
  });
}

/** What fills files without a reader. */
function buildFills(of: {
  readonly config: Config;
  readonly rooms: Rooms;
  readonly native: Native;
  readonly log: RootLog["log"];
  readonly names: NameResolver;
  readonly opener: Opener;
  readonly opened: OpenDoor;
}) {
  const { config, rooms, log, opener, opened } = of;
  const { engine, bindings, source } = rooms;
  const prefetcher = new Prefetcher({ engine, clock, log, isBusy: () => opener.waitingCount > 0 });
  const { holder, before } = fillingOf(opened, of);
  const prefetches = buildPrefetches({ config, rooms, prefetcher, holder, log });
  const { fill } = config.engine;
  const fills = new BackgroundFill({ engine, bindings, prefetcher, clock, fill });
  const replays = config.prefetch.traces
    ? new TraceReplays({ engine, bindings, source, clock, log })
    : undefined;
  return { prefetcher, prefetches, before, fills, replays };
}

/** What a daemon before us had bound may be mounted as that, until its mounts are all known. */
function boundBefore(
  bindings: Rooms["bindings"],
  door: Pick<CountingDoor, "areAllKnown">,
): (name: CookieName) => Promise<boolean> {
  const nameOf = ({ volumeKey, cookieKey }: CookieName): string => `${volumeKey}\0${cookieKey}`;
  const before = new Set([...bindings.all()].map(nameOf));
  return async (name) => before.has(nameOf(name)) && !(await door.areAllKnown());
}

type Seeding = NameResolverParts["seed"];

function buildNames(parts: {
  readonly config: Config;
  readonly rooms: Rooms;
  readonly log: RootLog["log"];
  readonly mayBeMounted: (name: CookieName) => Promise<boolean>;
  readonly seed: Seeding;
}): NameResolver {
  const { config, rooms, log, mayBeMounted, seed } = parts;
  const { source, slabs, engine, bindings, store, streams, admission } = rooms;
  const bootstrapBytesMax = config.limits.bootstrap;
  return new NameResolver({
    clock,
    log,
    engine,
    volumeKey: volumeKeyOf(config.kernel.domain_id),
    openTimeoutMs: config.limits.open_timeout,
    mayBeMounted,
    bindings,
    streams,
    references: createReferenceResolver(source),
    admit: (image, options) =>
      admitReference({ source, store, admission, bootstrapBytesMax }, image, options),
    integrity: config.engine.integrity,
    servesCompressed: servesCompressed(release()),
    heldHeadsMax: Math.floor(slabs.slabsMax / 8),
    seed,
  });
}

async function buildControl(parts: {
  readonly config: Config;
  readonly native: Native;
  readonly log: RootLog["log"];
  readonly rooms: Rooms;
  readonly names: NameResolver;
  readonly door: CountingDoor;
  readonly doors: MountDoors;
  readonly failures: FailureLog;
  readonly events: EventHub;
  readonly activity: Activity;
  readonly fill: () => void;
  readonly prefetches: Prefetches;
  readonly prefetcher: Prefetcher;
  readonly opened: OpenDoor;
  readonly upgrade: Life["upgrade"];
}) {
  const { config, log, rooms, names, door, doors, failures, events } = parts;
  const { activity, fill, prefetches, upgrade } = parts;
  const { engine, bindings, counts, pushed, source, store } = rooms;
  const readiness = new Readiness();
  const stopping = new AbortController();
  const version = await packageVersion();
  const { mounts, mountWatch } = buildMounts({ ...parts, stopping: stopping.signal });
  const watching = new Watching({ config, clock, log, rooms, door, version, mountWatch });
  const lastFailure = failures.last.bind(failures);
  const images = new KnownImages({ bindings, engine, cacheDir: config.cache.dir, lastFailure });
  const operations = controlOperations({
    clock,
    config,
    version,
    names,
    bindings,
    fill,
    upgrade,
    files: doors.prepared,
    mounts,
    images,
    failures,
    pushed,
    readiness,
    events,
    status: statusOf({ engine, door, counts, readiness }, version),
    activity: () => activity.report(engine),
    metrics: watching.metrics,
    trace: traceOf(engine, version),
    prefetch: prefetchOperations({ prefetches, names, stopping: stopping.signal }),
    ...cacheServing({ ...parts, images, mounts }),
    imageHistory: imageHistoryOf(images, { engine, clock, unixMs: Date.now }),
    imageFiles: imageFilesOf(images, {
      source,
      clock,
      bootstrapDirectory: store.bootstrapDirectory,
    }),
    stopping: stopping.signal,
  });
  const control = controlServer(parts, operations);
  return { control, readiness, events, stopping, watching };
}

function controlServer(
  { config, native, log }: Pick<DaemonParts, "config" | "native" | "log">,
  operations: ControlOperations,
): ControlServer {
  const { socket: socketPath } = config.control;
  const peers = new PeerCheck(native, process.geteuid?.() ?? 0);
  return new ControlServer({ socketPath, operations, log, peers, tcp: tcpAccess(config, log) });
}

function tcpAccess({ control }: Config, log: RootLog["log"]): TCPAccess | undefined {
  const address = parseAddress(control.listen ?? "");
  const { token_file: path } = control;
  if (address === undefined || path === undefined) return undefined;
  return { address, tokens: new TokenCheck({ path, clock, log }) };
}

function traceOf(engine: Engine, version: string): ControlOperations["trace"] {
  const traces = new TraceRecorder({ engine, clock, version, unixMs: Date.now });
  return traces.record.bind(traces);
}

function otherVolume(key: string, domainId: string): string {
  return `mounted in the volume "${key}"; this daemon serves domain_id=${domainId} alone`;
}

function statusOf(
  parts: {
    engine: Engine;
    door: CountingDoor;
    counts: Status["source"];
    readiness: Readiness;
  },
  version: string,
): () => Status {
  return () => ({
    version,
    pid: process.pid,
    ready: parts.readiness.isReady,
    kernelMessages: parts.door.messages,
    source: parts.counts,
    cache: parts.door.writes,
    waitingReads: parts.engine.waitingReads,
    objects: parts.engine.openObjects.map(({ cookieKey, cachedBytes, sizeBytes }) => ({
      cookieKey,
      cachedBytes,
      sizeBytes,
    })),
  });
}

/** With the keeper that holds it. */
async function openKeptDoor(
  { config, native, log, systemd }: DaemonParts,
  left: { readonly held: HeldFds; readonly occupied: ReadonlySet<number> | undefined },
) {
  let keeping: Keeping | undefined;
  const onObjects = (count: number): void => keeping?.objects(count);
  const opened = await openDoor({ config, native, log, ...left, onObjects });
  try {
    const parts = { native, log, systemd, cacheDir: config.cache.dir };
    const { allow_unsafe: allowUnsafe } = config.kernel;
    const { takeover_timeout: graceMs } = config.limits;
    keeping = await Keeping.start(parts, { fds: opened.fds, allowUnsafe, graceMs });
  } catch (error) {
    await opened.door.stop(asDaemonError(error));
    throw error;
  }
  return { ...opened, keeping };
}
