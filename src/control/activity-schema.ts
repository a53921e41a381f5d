// SPDX-License-Identifier: Apache-2.0
// What the control socket says of readers at this moment.

import * as z from "zod";

const count = z.int().nonnegative();
const time = z.number().nonnegative();

/** READs that were answered, since the daemon's start. */
const reads = z.strictObject({
  /**
   * All of it was cached. The cachefiles door is not asked then, so there are hardly any; the
   * fanotify door is, while a stream is not wholly cached.
   */
  hits: count,
  /** What was missing was on its way already. */
  joined: count,
  /** Something was fetched for it. */
  fetched: count,
  failed: count,
  /** Asked for, whatever became of it. */
  bytes: count,
});
export type ReadSums = z.infer<typeof reads>;

const place = { fsid: z.string(), offset: count, length: count, waitedMs: time };

/** GET /v1/activity */
export const activityAnswer = z.strictObject({
  /** On a clock of the daemon's own: the difference of two answers is the time between them. */
  nowMs: z.number(),
  reads,
  /** Stored bytes, by why they were fetched. */
  fetchedBytes: z.strictObject({ demand: count, ahead: count, prefetch: count }),
  /** Of these, what was thrown away. */
  wastedBytes: count,
  failedFills: count,
  fillsInFlight: count,
  waitingReads: count,
  /** Those of them that wait longest. */
  waiting: z.array(z.strictObject(place)),
  /** The slowest READs of the past minute, the slowest first. */
  slow: z.array(
    z.strictObject({
      id: count,
      ...place,
      /** How long ago it was answered. */
      agoMs: time,
      /** Why it failed. */
      code: z.string().optional(),
    }),
  ),
  /** What the kernel has open. */
  objects: z.array(
    z.strictObject({
      fsid: z.string(),
      volume: z.string(),
      cachedBytes: count,
      sizeBytes: count,
      reads,
    }),
  ),
});
export type ActivityAnswer = z.infer<typeof activityAnswer>;
