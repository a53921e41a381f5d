// SPDX-License-Identifier: Apache-2.0
// Metrics of the daemon as a whole: its door, its cache, its process. Most are asked for when
// somebody reads them.

import { type DiskUsage, diskUsage } from "./cache/usage.ts";
import type { CountingDoor } from "./doors.ts";
import type { Engine } from "./flow/engine.ts";
import type { Clock } from "./platform/clock.ts";
import { watchLoopDelay } from "./platform/loop-delay.ts";
import type { Metrics } from "./platform/metrics.ts";
import type { SlabPool } from "./platform/slab-pool.ts";
import { RESTART_CAUSES, type RunLog } from "./state/run-log.ts";

const DELAY_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];
/** Walking a large cache takes a while: it is not done for every reading. */
const USAGE_KEPT_MS = 30_000;

export interface DaemonMetricsParts {
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly version: string;
  readonly cacheDir: string;
  readonly engine: Engine;
  readonly door: CountingDoor;
  readonly slabs: SlabPool;
  readonly runs: RunLog;
  /** Unix time of the process's start, milliseconds. */
  readonly startedUnixMs: number;
}

/** Adds them; the returned function ends what it watches. */
export function daemonMetrics(parts: DaemonMetricsParts): () => void {
  const { metrics, clock } = parts;
  addDoorMetrics(parts);
  addEngineMetrics(parts);
  addCacheMetrics(parts);
  addProcessMetrics(parts);
  const delay = metrics.histogram({
    name: "erofsd_event_loop_delay_seconds",
    help: "How late the event loop ran a timer; it is asked ten times a second.",
    labels: [],
    buckets: DELAY_SECONDS,
  });
  return watchLoopDelay(clock, (delayMs) => {
    delay({}, delayMs / 1000);
  });
}

function addDoorMetrics({ metrics, door }: DaemonMetricsParts): void {
  const messages = metrics.total({
    name: "erofsd_kernel_messages_total",
    help: "Messages taken from the kernel, by kind.",
    labels: ["kind"],
  });
  const writes = metrics.total({
    name: "erofsd_cache_writes_total",
    help: "Writes into cache files.",
    labels: [],
  });
  const written = metrics.total({
    name: "erofsd_cache_written_bytes_total",
    help: "Bytes written into cache files.",
    labels: [],
  });
  metrics.beforeReading(() => {
    for (const kind of ["open", "read", "close", "malformed"] as const) {
      messages({ kind }, door.messages[kind]);
    }
    writes({}, door.writes.writes);
    written({}, door.writes.writtenBytes);
  });
}

function addEngineMetrics({ metrics, engine, slabs }: DaemonMetricsParts): void {
  const gauge = (name: string, help: string) => metrics.gauge({ name, help, labels: [] });
  const waiting = gauge("erofsd_waiting_reads", "READs that wait for an answer.");
  const fills = gauge("erofsd_fills_in_flight", "Fills under way, those that wait included.");
  const objects = gauge("erofsd_open_objects", "Objects that the kernel has open.");
  const cached = gauge("erofsd_open_cached_bytes", "What is cached of open objects.");
  const size = gauge("erofsd_open_size_bytes", "The sizes of open objects.");
  const lent = gauge("erofsd_buffer_used_bytes", "Memory that holds bytes of fills.");
  const most = gauge("erofsd_buffer_max_bytes", "What that memory may grow to.");
  metrics.beforeReading(() => {
    const { waitingReads, flights } = engine.load;
    waiting({}, waitingReads);
    fills({}, flights);
    let [cachedBytes, sizeBytes] = [0, 0];
    const open = engine.openObjects;
    for (const each of open) {
      cachedBytes += each.cachedBytes;
      sizeBytes += each.sizeBytes;
    }
    objects({}, open.length);
    cached({}, cachedBytes);
    size({}, sizeBytes);
    lent({}, slabs.lentBytes);
    most({}, slabs.bytesMax);
  });
}

function addCacheMetrics({ metrics, cacheDir, clock }: DaemonMetricsParts): void {
  const used = metrics.gauge({
    name: "erofsd_cache_used_bytes",
    help: "Blocks that cache files take; looked at every 30 seconds at most.",
    labels: [],
  });
  const files = metrics.gauge({ name: "erofsd_cache_files", help: "Cache files.", labels: [] });
  const free = metrics.gauge({
    name: "erofsd_cache_filesystem_free_bytes",
    help: "What the cache's filesystem has left.",
    labels: [],
  });
  let known: Promise<DiskUsage | undefined> | undefined;
  let knownMs = 0;
  metrics.beforeReading(async () => {
    if (known === undefined || clock.nowMs() - knownMs > USAGE_KEPT_MS) {
      knownMs = clock.nowMs();
      known = diskUsage(cacheDir).catch(() => undefined);
    }
    const usage = await known;
    if (usage === undefined) return;
    used({}, usage.usedBytes);
    files({}, usage.files);
    free({}, usage.filesystem.freeBytes);
  });
}

function addProcessMetrics({ metrics, version, runs, startedUnixMs }: DaemonMetricsParts): void {
  const info = metrics.gauge({
    name: "erofsd_build_info",
    help: "Always 1; what runs is in the labels.",
    labels: ["version", "node"],
  });
  info({ version, node: process.versions.node }, 1);
  const restarts = metrics.total({
    name: "erofsd_restarts_total",
    help: "Starts on this cache after the first, by what ended the daemon before.",
    labels: ["cause"],
  });
  const started = metrics.gauge({
    name: "process_start_time_seconds",
    help: "Start of the process, Unix time.",
    labels: [],
  });
  const cpu = metrics.total({
    name: "process_cpu_seconds_total",
    help: "User and system time.",
    labels: [],
  });
  const rss = metrics.gauge({
    name: "process_resident_memory_bytes",
    help: "Memory of the process.",
    labels: [],
  });
  started({}, startedUnixMs / 1000);
  metrics.beforeReading(() => {
    for (const cause of RESTART_CAUSES) restarts({ cause }, runs.restarts[cause]);
    const { user, system } = process.cpuUsage();
    cpu({}, (user + system) / 1e6);
    rss({}, process.memoryUsage.rss());
  });
}
