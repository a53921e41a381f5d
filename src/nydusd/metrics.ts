// SPDX-License-Identifier: Apache-2.0
// nydusd's metrics, as JSON of its shapes. For fscache nydusd itself answers 404 to nearly all of
// them; here they have numbers. What is not counted is zero, never a guess.

import type { BindRequest } from "./bind.ts";
import type { BlobService, ImageCounters, InflightRead } from "./service.ts";

/** Counters of nydusd's 15 file operations; read is the fifth. */
const OPERATIONS = 15;
const READ = 4;
/** Ranges of sizes, and of latencies. */
const RANGES = 8;
const FUSE_READ = 15;

export interface CountedImage {
  readonly request: BindRequest;
  readonly counters: ImageCounters;
}

export function counted(service: BlobService, requests: readonly BindRequest[]): CountedImage[] {
  return requests.flatMap((request) => {
    const counters = service.counters(request.image.fsid);
    return counters === undefined ? [] : [{ request, counters }];
  });
}

/** `GET /api/v1/metrics/blobcache`. The snapshotter's cache GC deletes what underlying_files lacks. */
export function blobcacheMetrics(images: readonly CountedImage[]): object {
  const of = images.map(({ counters }) => counters);
  const began = of.flatMap(({ prefetch }) => prefetch.beganAtMs ?? []);
  const ended = of.flatMap(({ prefetch }) => prefetch.endedAtMs ?? []);
  const blobs = of.flatMap(({ blobs }) => blobs);
  const begin = unixTime(began.length === 0 ? undefined : Math.min(...began));
  const end = unixTime(ended.length === 0 ? undefined : Math.max(...ended));
  return {
    underlying_files: [...new Set(blobs)].map((blob) => `${hexOf(blob)}.blob.data`),
    store_path: images[0]?.request.workDir ?? "",
    partial_hits: 0,
    whole_hits: 0,
    total: sum(of, ({ reads }) => reads),
    entries_count: sum(of, ({ cachedChunks }) => cachedChunks),
    prefetch_data_amount: sum(of, ({ prefetch }) => prefetch.bytes),
    prefetch_requests_count: sum(of, ({ prefetch }) => prefetch.requests),
    prefetch_workers: sum(of, ({ prefetch }) => prefetch.workers),
    prefetch_unmerged_chunks: 0,
    prefetch_cumulative_time_millis: sum(of, ({ prefetch: { beganAtMs, endedAtMs } }) =>
      beganAtMs === undefined || endedAtMs === undefined ? 0 : Math.round(endedAtMs - beganAtMs),
    ),
    prefetch_begin_time_secs: begin.seconds,
    prefetch_begin_time_millis: begin.millis,
    prefetch_end_time_secs: end.seconds,
    prefetch_end_time_millis: end.millis,
    buffered_backend_size: 0,
    data_all_ready: of.length > 0 && of.every(({ complete }) => complete),
  };
}

/** `GET /api/v1/metrics`: of one image, or of all (`id` empty). */
export function fsMetrics(id: string, images: readonly CountedImage[]): object {
  const of = images.map(({ counters }) => counters);
  const hits = operations(sum(of, ({ reads, failedReads }) => Math.max(reads - failedReads, 0)));
  return {
    files_account_enabled: false,
    access_pattern_enabled: false,
    record_latest_read_files_enabled: false,
    measure_latency: false,
    id,
    nr_opens: 0,
    data_read: sum(of, ({ readBytes }) => readBytes),
    block_count_read: zeros(RANGES),
    fop_hits: hits,
    fop_errors: operations(sum(of, ({ failedReads }) => failedReads)),
    fop_cumulative_latency_total: zeros(OPERATIONS),
    read_latency_dist: zeros(RANGES),
  };
}

/** `GET /api/v1/metrics/backend`. */
export function backendMetrics(images: readonly CountedImage[]): object {
  const of = images.map(({ counters }) => counters);
  const kinds = new Set(images.map(({ request }) => request.image.backend.kind));
  return {
    backend_type: kinds.has("registry") || kinds.size === 0 ? "registry" : "localfs",
    read_count: sum(of, ({ reads }) => reads),
    read_errors: sum(of, ({ failedReads }) => failedReads),
    read_amount_total: sum(of, ({ fetchedBytes }) => fetchedBytes),
    read_cumulative_latency_millis_total: 0,
    read_cumulative_latency_millis_dist: zeros(RANGES),
    read_count_block_size_dist: zeros(RANGES),
    read_latency_sizes_dist: Array.from({ length: RANGES }, () => zeros(RANGES)),
  };
}

/** `GET /api/v1/metrics/inflight`: a list; the snapshotter calls a read that is too old hung. */
export function inflightMetrics(reads: readonly InflightRead[]): object {
  return reads.map(({ sinceMs }, index) => ({
    inode: 0,
    opcode: FUSE_READ,
    unique: index + 1,
    timestamp_secs: unixTime(sinceMs).seconds,
  }));
}

function operations(reads: number): number[] {
  return zeros(OPERATIONS).map((zero, at) => (at === READ ? reads : zero));
}

/** As nydusd splits a time: whole seconds since 1970, and the milliseconds beyond. */
function unixTime(unixMs: number | undefined): { seconds: number; millis: number } {
  if (unixMs === undefined) return { seconds: 0, millis: 0 };
  const ms = Math.round(unixMs);
  return { seconds: Math.floor(ms / 1000), millis: ms % 1000 };
}

function zeros(length: number): number[] {
  return Array.from({ length }, () => 0);
}

function sum(of: readonly ImageCounters[], value: (counters: ImageCounters) => number): number {
  return of.reduce((total, counters) => total + value(counters), 0);
}

function hexOf(digest: string): string {
  return digest.replace(/^sha256:/, "");
}
