// SPDX-License-Identifier: Apache-2.0
// The daemon: builds the rooms, wires them, and owns the order in which they stop.
//
//   config -> log -> addon -> state -> device bound -> control socket -> serving
//
// Nothing imports this file but the command line.

import { stat } from "node:fs/promises";
import { release } from "node:os";
import type { SeedFiles } from "./cache/seed-files.ts";
import { cacheServing } from "./cache-serving.ts";
import { type Config, DEFAULT_CONFIG_PATH, loadConfig, parseConfig } from "./config/config.ts";
import { Activity } from "./control/activity.ts";
import type { ControlOperations } from "./control/control-operations.ts";
import { EventHub } from "./control/event-hub.ts";
import { imageFilesOf } from "./control/image-files.ts";
import { imageHistoryOf } from "./control/image-history.ts";
import { KnownImages } from "./control/known-images.ts";
import { bindingObserver, failureObserver, observedHandler } from "./control/observe.ts";
import { FailureLog, Readiness, controlOperations } from "./control/operations.ts";
import type { Status } from "./control/schema.ts";
import { prefetchOperations } from "./control/prefetch-operations.ts";
import { ControlServer } from "./control/server.ts";
import { TraceRecorder } from "./control/trace-recorder.ts";
import { type CountingDoor, type OpenDoor, openDoor } from "./doors.ts";
import { DaemonError, asDaemonError } from "./errors.ts";
import { Admission } from "./flow/admission.ts";
import { BackgroundFill } from "./flow/background-fill.ts";
import type { Engine } from "./flow/engine.ts";
import { NameResolver } from "./flow/name-resolver.ts";
import { Opener } from "./flow/open-image.ts";
import type { Prefetches } from "./flow/prefetch/prefetches.ts";
import { Prefetcher } from "./flow/prefetch/prefetcher.ts";
import { TraceReplays } from "./flow/prefetch/trace-replays.ts";
import { admitReference } from "./flow/rafs/admit-reference.ts";
import { volumeKeyOf } from "./kernel/cachefiles/keys.ts";
import { servesCompressed } from "./kernel/cachefiles/setup.ts";
import { MountDoors } from "./mount-doors.ts";
import { buildMounts } from "./mount-serving.ts";
import { systemClock as clock } from "./platform/clock.ts";
import { type RootLog, createLog } from "./platform/log.ts";
import { type Native, loadNative } from "./platform/native.ts";
import { packageVersion } from "./platform/package-root.ts";
import { buildPrefetches, fillingOf } from "./prefetch-serving.ts";
import { Systemd } from "./platform/systemd.ts";
import { type Rooms, buildRooms } from "./rooms.ts";
import { ServiceReport, healthProblem } from "./service-report.ts";
import { createReferenceResolver } from "./source/reference-resolver.ts";
import { Watching } from "./watching.ts";

/** FileDescriptorName= in erofsd.socket. */
const CONTROL_SOCKET_NAME = "control";

/** Runs until a signal ends it; resolves with the exit status. Rejects when it cannot start. */
export async function serve(options: { configPath: string | undefined }): Promise<number> {
  const config = await readConfig(options.configPath);
  const root = await createLog(config.log);
  try {
    return await runDaemon(config, root);
  } catch (error) {
    const fault = asDaemonError(error);
    root.log.fatal({ code: fault.fault.code, hint: fault.policy.hint }, fault.message);
    throw fault;
  } finally {
    root.flush();
  }
}

async function readConfig(path: string | undefined): Promise<Config> {
  if (path !== undefined) return loadConfig(path);
  const hasDefault = await stat(DEFAULT_CONFIG_PATH).catch(() => undefined);
  return hasDefault === undefined
    ? parseConfig("", "built-in defaults")
    : loadConfig(DEFAULT_CONFIG_PATH);
}

async function runDaemon(config: Config, { log }: RootLog): Promise<number> {
  const startMs = clock.nowMs();
  const stopped = stopSignal(log);
  const native = loadNative({ writerThreads: config.engine.writer_threads });
  const systemd = new Systemd(native);
  const passed = systemd.takeListenFds();
  const rooms = await buildServing(config, native, log);
  try {
    await rooms.control.listen(passed.get(CONTROL_SOCKET_NAME)?.[0]);
    await rooms.watching.listen();
  } catch (error) {
    await rooms.control.close();
    await rooms.watching.stop();
    await rooms.door.stop(asDaemonError(error));
    throw error;
  }
  const handler = rooms.before(observedHandler(rooms.handler, rooms.events));
  rooms.door.start(handler, (error) => {
    rooms.readiness.stop(error);
    stopped.stop(error);
  });
  rooms.doors.start(handler);
  rooms.readiness.ready();
  log.info(
    {
      cacheDir: config.cache.dir,
      door: rooms.kind,
      domainId: config.kernel.domain_id,
      socket: config.control.socket,
      startMs: Math.round(clock.nowMs() - startMs),
    },
    "ready",
  );
  const report = reportOf(rooms, { config, systemd, log });
  await report.ready();
  // What a first request needs is loaded now, after the door is open.
  rooms
    .warmUp()
    .then(() => rooms.prefetches.load())
    .catch((error: unknown) => {
      stopped.stop(asDaemonError(error));
    });
  const reason = await stopped.reason;
  await report.stopping();
  await shutDown(config, rooms, log);
  if (reason instanceof DaemonError) throw reason;
  return 0;
}

function reportOf(
  rooms: Serving,
  { config, systemd, log }: { config: Config; systemd: Systemd; log: RootLog["log"] },
): ServiceReport {
  const { door, kind, engine, readiness } = rooms;
  const readTimeoutMs = config.limits.read_timeout;
  return new ServiceReport({
    systemd,
    clock,
    log,
    problem: () => healthProblem({ door, readiness, engine, readTimeoutMs, clock }),
    status: () =>
      `Serving through ${kind}: ${door.objectCount} open, ${engine.waitingReads} reads waiting`,
  });
}

type Serving = Awaited<ReturnType<typeof buildServing>>;

async function buildServing(config: Config, native: Native, log: RootLog["log"]) {
  const failures = new FailureLog();
  const events = new EventHub({ clock, unixMs: Date.now });
  const failed = failureObserver(failures, events);
  const activity = new Activity(clock);
  const parts = { config, native, log, observe: activity, onFillFailure: failed.ofFill };
  const rooms = await buildRooms(parts);
  const { source, engine, bindings } = rooms;
  const domainId = config.kernel.domain_id;
  const volumeKey = volumeKeyOf(domainId);
  const opened = await openDoor(config, native, log);
  const seeds = opened.kind === "cachefiles" ? rooms.seedFiles(opened.command) : undefined;
  const names = buildNames(config, rooms, { seeds, log });
  const opener = new Opener({
    clock,
    log,
    engine,
    openTimeoutMs: config.limits.open_timeout,
    names,
    volumeProblem: (key) => (key === volumeKey ? undefined : otherVolume(key, domainId)),
    onFailure: failed.ofOpen,
  });
  const filling = buildFills({ config, rooms, native, log, names, opener, opened });
  const { fills } = filling;
  const doors = new MountDoors({ config, native, log, streams: rooms.streams, opened });
  bindings.observer = bindingObserver(events);
  const { control, ...life } = await buildControl({
    config,
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
  });
  const warmUp = async (): Promise<void> => {
    await rooms.warmUp();
    await life.watching.began();
  };
  const handler = new Admission(opener, engine);
  return {
    source,
    engine,
    names,
    opener,
    ...opened,
    doors,
    control,
    warmUp,
    handler,
    ...filling,
    ...life,
  };
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

function buildNames(
  config: Config,
  rooms: Rooms,
  { seeds, log }: { seeds: SeedFiles | undefined; log: RootLog["log"] },
): NameResolver {
  const { source, slabs, engine, bindings, store, streams, admission } = rooms;
  const bootstrapBytesMax = config.limits.bootstrap;
  return new NameResolver({
    clock,
    log,
    engine,
    volumeKey: volumeKeyOf(config.kernel.domain_id),
    openTimeoutMs: config.limits.open_timeout,
    bindings,
    streams,
    references: createReferenceResolver(source),
    admit: (image, options) =>
      admitReference({ source, store, admission, bootstrapBytesMax }, image, options),
    integrity: config.engine.integrity,
    servesCompressed: servesCompressed(release()),
    heldHeadsMax: Math.floor(slabs.slabsMax / 8),
    seed: async (objects) => seeds?.seed(objects),
  });
}

async function buildControl(parts: {
  readonly config: Config;
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
}) {
  const { config, log, rooms, names, door, doors, failures, events } = parts;
  const { activity, fill, prefetches } = parts;
  const { engine, bindings, counts, pushed, source, store } = rooms;
  const readiness = new Readiness();
  const stopping = new AbortController();
  const version = await packageVersion();
  const watching = new Watching({ config, clock, log, rooms, door, version });
  const lastFailure = failures.last.bind(failures);
  const images = new KnownImages({ bindings, engine, cacheDir: config.cache.dir, lastFailure });
  const mounts = buildMounts({ ...parts, stopping: stopping.signal });
  const operations = controlOperations({
    clock,
    config,
    version,
    names,
    bindings,
    fill,
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
  const control = new ControlServer({ socketPath: config.control.socket, operations, log });
  return { control, readiness, events, stopping, watching };
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

// stop admitting -> let what waits finish, for a while -> fail the rest -> close the device
async function shutDown(config: Config, rooms: Serving, log: RootLog["log"]): Promise<void> {
  const error = new DaemonError({ code: "stopping" });
  rooms.handler.refuseNew(error);
  rooms.readiness.stop(error);
  rooms.events.stop();
  await rooms.control.close();
  const untilMs = clock.nowMs() + config.limits.drain_timeout;
  const isBusy = () => rooms.engine.waitingReads > 0 || rooms.opener.waitingCount > 0;
  while (isBusy() && clock.nowMs() < untilMs) {
    await new Promise<void>((resolve) => {
      clock.after(20, resolve);
    });
  }
  const objects = rooms.door.objectCount;
  // The other door tells itself what is mounted.
  if (objects > 0 && rooms.kind === "cachefiles") {
    log.warn(
      { objects },
      "images are still mounted: what is not cached of them cannot be read until they are mounted again",
    );
  }
  rooms.stopping.abort(error);
  rooms.fills.stop();
  rooms.replays?.stop();
  rooms.prefetches.stop(error);
  rooms.prefetcher.stop();
  rooms.names.stop(error);
  rooms.engine.abort(error);
  await rooms.doors.stop(error);
  await rooms.door.stop(error);
  await rooms.source.close();
  await rooms.watching.stop();
  log.info({}, "stopped");
}

/** Resolves on SIGTERM or SIGINT, or with a fault when the daemon cannot go on. A second signal ends it at once. */
function stopSignal(log: RootLog["log"]) {
  let stop: (reason: DaemonError | NodeJS.Signals) => void = () => undefined;
  const reason = new Promise<DaemonError | NodeJS.Signals>((resolve) => {
    stop = resolve;
  });
  let signals = 0;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      signals += 1;
      if (signals > 1) process.exit(128 + (signal === "SIGINT" ? 2 : 15));
      log.info({ signal }, "stopping");
      stop(signal);
    });
  }
  // Our own bug: answer what waits, then go; the service manager starts us again.
  process.on("uncaughtException", (error) => {
    log.fatal({ err: error }, `a bug: ${error.message}`);
    stop(asDaemonError(error));
  });
  return { reason, stop };
}
