// SPDX-License-Identifier: Apache-2.0
// The rooms that every way of running the daemon has: source, state, engine and what Nydus
// images need. Who opens names, which door is used and who is listened to differs: main.ts (the
// daemon of its own) and nydusd/ (in nydusd's place) add that.

import { randomInt } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { cullFile } from "./cache/cull.ts";
import { SeedFiles, mendVolumes } from "./cache/seed-files.ts";
import { dropCachedKey, dropUntrustedFiles } from "./cache/untrusted-files.ts";
import type { Config } from "./config/config.ts";
import { tryDecoding } from "./decoder/trial.ts";
import { type Decoder, createDecoder } from "./decoder/unit-decoder.ts";
import { DaemonError } from "./errors.ts";
import { Engine } from "./flow/engine.ts";
import { flowMetrics } from "./flow/flow-metrics.ts";
import { type FlowObserver, observers } from "./flow/flow-observer.ts";
import { RafsAdmission } from "./flow/rafs/admit-image.ts";
import { Streams } from "./flow/streams.ts";
import { volumeKeyOf } from "./kernel/cachefiles/keys.ts";
import { dropStreamsOf, dropUntrustedStreams } from "./kernel/fanotify/names.ts";
import { systemClock as clock, nextTurn } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import { Metrics } from "./platform/metrics.ts";
import type { Native } from "./platform/native.ts";
import { SlabPool } from "./platform/slab-pool.ts";
import { compileWasmOnce } from "./platform/wasm.ts";
import { ignoreBecause } from "./source/ignore.ts";
import { AccessBook } from "./source/registry/access.ts";
import { takeEnvironment } from "./source/registry/credentials/environment.ts";
import { PushedCredentials } from "./source/registry/credentials/pushed.ts";
import { HedgeBudget } from "./source/registry/hedge-budget.ts";
import type { RegistryObserver } from "./source/registry/options.ts";
import { registryMetrics } from "./source/registry/registry-metrics.ts";
import { createSources } from "./source/sources.ts";
import { Bindings } from "./state/bindings.ts";
import { StreamStore } from "./state/stream-store.ts";
import { KIB, MIB } from "./units.ts";

/** 4 GiB in blocks: how far sizes may be from the real ones. */
const SIZES_FROM_MAX = 2 ** 20;

export interface RoomsParts {
  readonly config: Config;
  readonly native: Native;
  readonly log: Log;
  /** Looks on beside the metrics. */
  readonly observe?: FlowObserver;
  readonly onFillFailure: (cookieKeys: readonly string[], error: DaemonError) => void;
}

export type Rooms = Awaited<ReturnType<typeof buildRooms>>;

/** Reads the state. The cache must not be bound yet, unless `adopted`: then its files are in use. */
export async function buildRooms(parts: RoomsParts, adopted = false) {
  const { config, native, log } = parts;
  const { bindings, store } = await loadState(parts, adopted);
  const { source, counts, access, pushed, metrics, hedges } = buildSource(config, log);
  const slabs = buildSlabs(config, native);
  const counted = flowMetrics(metrics);
  const observe = parts.observe === undefined ? counted : observers(counted, parts.observe);
  const engine = buildEngine(parts, slabs, observe);
  let made: Promise<Decoder> | undefined;
  const timed = { clock, phase: observe.phase.bind(observe) };
  const decoder = () => (made ??= createDecoder({ native, nextTurn, timed }));
  const streams = new Streams({
    source,
    store,
    live: (key) => engine.liveStream(key),
    decoder,
  });
  const admission = new RafsAdmission({
    source,
    native,
    store,
    streams,
    log,
    otherUse: (digest) => bindings.otherUse({ digest, format: "rafs" }),
    dropCached: (digest) => dropCached(config, digest.slice("sha256:".length)),
  });
  const warmUp = async (): Promise<void> => {
    await source.warmUp();
    await decoder();
    await tryDecoding(native);
    slabs.warmUp();
  };
  return {
    source,
    counts,
    access,
    pushed,
    metrics,
    hedges,
    seedFiles: seedFilesOf(parts, store),
    slabs,
    engine,
    bindings,
    store,
    streams,
    admission,
    warmUp,
  };
}

/** Given what sends commands to a bound cachefiles. */
function seedFilesOf({ config, native, log }: RoomsParts, store: StreamStore) {
  return (command: (text: string) => void): SeedFiles =>
    new SeedFiles({
      cacheDir: config.cache.dir,
      native,
      log,
      temporary: () => store.temporary(),
      cull: (file) => cullFile({ command }, file),
    });
}

function buildEngine(
  { config, log, onFillFailure }: RoomsParts,
  slabs: SlabPool,
  observe: FlowObserver,
): Engine {
  return new Engine({
    clock,
    log,
    slabs,
    limits: {
      windowBytes: config.engine.window,
      windowBytesMax: Math.max(config.engine.window, config.engine.window_max),
      fillsNeighbours: true,
      opensSpares: true,
      requestsPerHost: config.registry.connections,
      readTimeoutMs: config.limits.read_timeout,
    },
    observe,
    onFillFailure,
  });
}

function buildSource(config: Config, log: Log) {
  const counts = { requests: 0, bytes: 0, failures: 0 };
  const access = new AccessBook();
  const pushed = new PushedCredentials();
  const environment = takeEnvironment(process.env, homedir());
  const metrics = new Metrics();
  const observed = registryMetrics(metrics);
  const hedges = new HedgeBudget({ percent: config.registry.hedge_percent });
  const source = createSources({
    async registry() {
      compileWasmOnce();
      const { createRegistry } = await import("./registry.ts");
      const { blob_dirs: directories } = config.registry;
      const observe = counting(counts, observed);
      const given = { config, log, access, pushed, environment, observe, hedges };
      const registry = createRegistry(given);
      if (directories.length === 0) return registry;
      const { withBlobDirectories } = await import("./source/blob-directories.ts");
      return withBlobDirectories(registry, { clock, log, directories });
    },
    async layout() {
      const { createLayoutSource } = await import("./source/layout.ts");
      return createLayoutSource({ clock });
    },
    async directory() {
      const { createDirectorySource } = await import("./source/directory.ts");
      return createDirectorySource({ clock });
    },
  });
  return { source, counts, access, pushed, metrics, hedges };
}

/** The few sums that a status has. */
function counting(
  counts: { requests: number; bytes: number; failures: number },
  to: Required<RegistryObserver>,
): RegistryObserver {
  return {
    ...to,
    request(host, via) {
      counts.requests += 1;
      to.request(host, via);
    },
    bytes(host, count, via) {
      counts.bytes += count;
      to.bytes(host, count, via);
    },
    failure(host, code) {
      counts.failures += 1;
      to.failure(host, code);
    },
  };
}

function buildSlabs(config: Config, native: Native): SlabPool {
  const slabBytes = Math.min(Math.max(config.engine.window, 256 * KIB), MIB);
  return new SlabPool({
    slabBytes,
    slabsMax: Math.floor(config.limits.bytes_in_flight / slabBytes),
    allocate: (bytes) => native.allocateAligned(bytes),
    populate: (bytes) => {
      ignoreBecause("it is made as it is touched, then", native.populate(bytes));
    },
  });
}

/** At whichever door it was cached. */
async function dropCached({ cache, kernel }: Config, cookieKey: string): Promise<void> {
  await dropCachedKey(cache.dir, cookieKey);
  await dropStreamsOf(cache.dir, { volumeKey: volumeKeyOf(kernel.domain_id), cookieKey });
}

async function loadState({ config, native, log }: RoomsParts, adopted: boolean) {
  const cacheDir = config.cache.dir;
  await mkdir(cacheDir, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
    const detail = `cannot be created: ${error instanceof Error ? error.message : String(error)}`;
    throw new DaemonError({ code: "cache_dir_unsuitable", path: cacheDir, detail });
  });
  const store = new StreamStore(join(cacheDir, "state"), ({ fault, message }) => {
    log.warn({ code: fault.code }, message);
  });
  await store.clean();
  if (!adopted) await mendVolumes(cacheDir, native);
  const bindings = new Bindings(join(cacheDir, "state", "bindings.json"));
  const loaded = await bindings.load();
  if (loaded === "loaded") return { bindings, store };
  if (loaded instanceof DaemonError) log.warn({ code: loaded.fault.code }, loaded.message);
  if (adopted) {
    // What a live kernel session holds open must not go away under it.
    bindings.startSizesAt(randomInt(1, SIZES_FROM_MAX));
    return { bindings, store };
  }
  const dropped = (await dropUntrustedFiles(cacheDir)) + (await dropUntrustedStreams(cacheDir));
  if (dropped > 0) log.warn({ dropped }, "cached files of names that nothing is known of: deleted");
  return { bindings, store };
}
