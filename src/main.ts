// SPDX-License-Identifier: Apache-2.0
// The daemon: builds the rooms, wires them, and owns the order in which they stop.
//
//   config -> log -> addon -> state -> device bound -> control socket -> serving
//
// Nothing imports this file but the command line.

import { mkdir, stat } from "node:fs/promises";
import { release } from "node:os";
import { join } from "node:path";
import { dropUntrustedFiles } from "./cache/untrusted-files.ts";
import { type Config, DEFAULT_CONFIG_PATH, loadConfig, parseConfig } from "./config/config.ts";
import { FailureLog, controlOperations } from "./control/operations.ts";
import type { Status } from "./control/schema.ts";
import { ControlServer } from "./control/server.ts";
import { DaemonError, asDaemonError } from "./errors.ts";
import { Admission } from "./flow/admission.ts";
import { Engine } from "./flow/engine.ts";
import { NameResolver } from "./flow/name-resolver.ts";
import { Opener } from "./flow/open-image.ts";
import { CachefilesSession } from "./kernel/cachefiles/session.ts";
import { volumeKeyOf } from "./kernel/cachefiles/keys.ts";
import { openBoundDevice, servesCompressed } from "./kernel/cachefiles/setup.ts";
import { systemClock as clock } from "./platform/clock.ts";
import { type RootLog, createLog } from "./platform/log.ts";
import { type Native, loadNative } from "./platform/native.ts";
import { packageVersion } from "./platform/package-root.ts";
import { SlabPool } from "./platform/slab-pool.ts";
import { createReferenceResolver } from "./source/reference-resolver.ts";
import { type RegistryParts, isLoopback } from "./source/registry/options.ts";
import { createSources } from "./source/sources.ts";
import { Bindings } from "./state/bindings.ts";
import { KIB, MIB } from "./units.ts";

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
  const rooms = await buildRooms(config, native, log);
  try {
    await rooms.control.listen();
  } catch (error) {
    await rooms.door.stop(asDaemonError(error));
    throw error;
  }
  rooms.door.start(rooms.handler, (error) => {
    stopped.stop(error);
  });
  log.info(
    {
      cacheDir: config.cache.dir,
      domainId: config.kernel.domain_id,
      socket: config.control.socket,
      startMs: Math.round(clock.nowMs() - startMs),
    },
    "ready",
  );
  // What a first request needs is loaded now, after the door is open.
  rooms.source.warmUp().catch((error: unknown) => {
    stopped.stop(asDaemonError(error));
  });
  const reason = await stopped.reason;
  await shutDown(config, rooms, log);
  if (reason instanceof DaemonError) throw reason;
  return 0;
}

type Rooms = Awaited<ReturnType<typeof buildRooms>>;

async function buildRooms(config: Config, native: Native, log: RootLog["log"]) {
  const failures = new FailureLog();
  const bindings = await loadState(config, log);
  const { source, counts } = buildSource(config, log);
  const slabs = buildSlabs(config, native);
  const engine = new Engine({
    clock,
    log,
    source,
    slabs,
    limits: {
      windowBytes: config.engine.window,
      readTimeoutMs: config.limits.read_timeout,
      answerHoldMs: config.engine.answer_hold,
    },
    onFillFailure: (keys, error) => {
      for (const key of keys) failures.record(key, error);
    },
  });
  const domainId = config.kernel.domain_id;
  const common = {
    clock,
    log,
    engine,
    volumeKey: volumeKeyOf(domainId),
    openTimeoutMs: config.limits.open_timeout,
  };
  const names = new NameResolver({
    ...common,
    bindings,
    references: createReferenceResolver(source),
    servesCompressed: servesCompressed(release()),
    heldHeadsMax: Math.floor(slabs.slabsMax / 8),
  });
  const opener = new Opener({
    ...common,
    names,
    integrity: config.engine.integrity,
    onFailure: (key, error) => {
      failures.record(key, error);
    },
  });
  const door = openDoor(config, native, log);
  const status = await statusOf({ engine, door, counts });
  const operations = controlOperations({ names, failures, domainId, status });
  const control = new ControlServer({ socketPath: config.control.socket, operations, log });
  return { source, engine, names, opener, door, control, handler: new Admission(opener, engine) };
}

function buildSource(config: Config, log: RootLog["log"]) {
  const counts = { requests: 0, bytes: 0, failures: 0 };
  const { registry } = config;
  const registryParts: RegistryParts = {
    clock,
    random: Math.random,
    log,
    options: {
      plainHttp: (host) => isLoopback(host) || registry.plain_http.includes(host),
      connections: registry.connections,
      attemptsMax: registry.attempts,
      connectTimeoutMs: registry.connect_timeout,
      headersTimeoutMs: registry.headers_timeout,
      stallTimeoutMs: registry.stall_timeout,
    },
    observe: {
      request() {
        counts.requests += 1;
      },
      bytes(_host, count) {
        counts.bytes += count;
      },
      failure() {
        counts.failures += 1;
      },
    },
  };
  const source = createSources({
    async registry() {
      const { createRegistrySource } = await import("./source/registry/registry-source.ts");
      return createRegistrySource(registryParts);
    },
    async layout() {
      const { createLayoutSource } = await import("./source/layout.ts");
      return createLayoutSource({ clock });
    },
  });
  return { source, counts };
}

function buildSlabs(config: Config, native: Native): SlabPool {
  const slabBytes = Math.min(Math.max(config.engine.window, 256 * KIB), MIB);
  return new SlabPool({
    slabBytes,
    slabsMax: Math.floor(config.limits.bytes_in_flight / slabBytes),
    allocate: (bytes) => native.allocateAligned(bytes),
  });
}

function openDoor(config: Config, native: Native, log: RootLog["log"]): CachefilesSession {
  const deviceFd = openBoundDevice(native, {
    devicePath: config.kernel.device,
    cacheDir: config.cache.dir,
    tag: config.cache.tag,
    limits: config.cache,
  });
  return new CachefilesSession({ native, clock, log, deviceFd });
}

async function statusOf(parts: {
  engine: Engine;
  door: CachefilesSession;
  counts: Status["source"];
}): Promise<() => Status> {
  const version = await packageVersion();
  return () => ({
    version,
    pid: process.pid,
    ready: true,
    kernelMessages: parts.door.messages,
    source: parts.counts,
    cache: parts.door.writes,
    waitingReads: parts.engine.waitingReads,
    objects: [...parts.engine.openObjects],
  });
}

async function loadState(config: Config, log: RootLog["log"]): Promise<Bindings> {
  await mkdir(config.cache.dir, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
    const detail = `cannot be created: ${error instanceof Error ? error.message : String(error)}`;
    throw new DaemonError({ code: "cache_dir_unsuitable", path: config.cache.dir, detail });
  });
  const bindings = new Bindings(join(config.cache.dir, "state", "bindings.json"));
  const loaded = await bindings.load();
  if (loaded === "loaded") return bindings;
  const dropped = await dropUntrustedFiles(config.cache.dir);
  if (loaded instanceof DaemonError) log.warn({ code: loaded.fault.code }, loaded.message);
  if (dropped > 0) log.warn({ dropped }, "cached files of names that nothing is known of: deleted");
  return bindings;
}

// stop admitting -> let what waits finish, for a while -> fail the rest -> close the device
async function shutDown(config: Config, rooms: Rooms, log: RootLog["log"]): Promise<void> {
  const error = new DaemonError({ code: "stopping" });
  rooms.handler.refuseNew(error);
  await rooms.control.close();
  const untilMs = clock.nowMs() + config.limits.drain_timeout;
  const isBusy = () => rooms.engine.waitingReads > 0 || rooms.opener.waitingCount > 0;
  while (isBusy() && clock.nowMs() < untilMs) {
    await new Promise<void>((resolve) => {
      clock.after(20, resolve);
    });
  }
  const objects = rooms.door.objectCount;
  if (objects > 0) {
    log.warn(
      { objects },
      "images are still mounted: what is not cached of them cannot be read until they are mounted again",
    );
  }
  rooms.names.stop(error);
  rooms.engine.abort(error);
  await rooms.door.stop(error);
  await rooms.source.close();
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
