// SPDX-License-Identifier: Apache-2.0
// Prefetch over the control socket: what is asked for, and how far it is.

import * as z from "zod";
import { failure } from "./schema.ts";

const bytes = z.int().nonnegative();
const name = z.string().min(1).max(4096);
const names = z.array(name).min(1).max(1024);

const changeable = {
  /** The higher goes first. */
  priority: z.int().min(-100).max(100).optional(),
  /** Bytes a second, 0: no limit. */
  bandwidthLimit: bytes.optional(),
  /** Fetches in the air at once while nobody reads. */
  flightsMax: z.int().min(1).max(8).optional(),
};

const traceReads = z.strictObject({
  /** Of which it is, where it says so. */
  image: z.strictObject({ reference: z.string(), manifestDigest: z.string() }).optional(),
  streams: z.array(z.strictObject({ stream: z.int().min(0), digest: z.string() })).max(4096),
  /** Stream, offset and length, in the order of time. */
  reads: z.array(z.tuple([z.int().min(0), bytes, bytes])).max(100_000),
});

/** Of a body with a trace. */
export const PREFETCH_BODY_BYTES_MAX = 2 * 1024 * 1024;

/** POST /v1/prefetches: the whole image, or some files, or what a trace has read. */
export const startPrefetch = z
  .strictObject({
    reference: z.string().min(1).max(4096),
    /** The key that it will be mounted by; default: a digest. */
    fsid: z.string().min(1).max(252).optional(),
    /** As in the image's root; a directory stands for all beneath it. */
    paths: names.optional(),
    globs: names.optional(),
    trace: traceReads.optional(),
    ...changeable,
  })
  .superRefine(({ paths, globs, trace }, context) => {
    if (trace === undefined || (paths === undefined && globs === undefined)) return;
    context.addIssue({ code: "custom", message: "not together with files", path: ["trace"] });
  });
export type StartPrefetch = z.infer<typeof startPrefetch>;

/** PATCH /v1/prefetches/{id} */
export const changePrefetch = z.strictObject(changeable);
export type ChangePrefetch = z.infer<typeof changePrefetch>;

export const prefetchId = z.strictObject({ id: z.string().min(1).max(64) });

export const prefetchView = z.strictObject({
  id: z.string(),
  reference: z.string(),
  manifestDigest: z.string(),
  fsid: z.string(),
  kind: z.enum(["all", "files", "trace"]),
  paths: z.array(z.string()).optional(),
  globs: z.array(z.string()).optional(),
  /** `waiting`: for its turn, or for a fault to pass, which `failure` tells then. */
  state: z.enum(["waiting", "running", "done", "failed", "cancelled"]),
  priority: z.int(),
  bandwidthLimit: bytes,
  flightsMax: z.int(),
  /** Of what is wanted, unpacked; what may not be fetched ahead stays away at the end. */
  totalBytes: bytes,
  cachedBytes: bytes,
  /** That came from the source, as stored there. */
  fetchedBytes: bytes,
  /** Of cachedBytes, over the last seconds. */
  bytesPerSecond: bytes,
  /** At that speed. */
  secondsLeft: z.number().optional(),
  createdAt: z.string(),
  endedAt: z.string().optional(),
  failure: failure.optional(),
});
export type PrefetchView = z.infer<typeof prefetchView>;

export const startedPrefetch = prefetchView.extend({
  /** The same was under way already. */
  joined: z.boolean(),
});
export type StartedPrefetch = z.infer<typeof startedPrefetch>;

export const prefetchesAnswer = z.strictObject({ prefetches: z.array(prefetchView) });
