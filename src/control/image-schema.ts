// SPDX-License-Identifier: Apache-2.0
// What the control socket says of images, of the cache, and of what happens.

import * as z from "zod";
import { DOORS } from "../config/config.ts";
import { failure } from "./schema.ts";

const bytes = z.int().nonnegative();

/** Path parameter of /v1/images/{name}: an fsid, a reference, or a manifest's digest. */
export const imageName = z.strictObject({ name: z.string().min(1).max(4096) });

export const imageSummary = z.strictObject({
  /** The cookie key it is mounted by: `-o fsid=`. */
  fsid: z.string(),
  /** `-o domain_id=`; absent in volumes of another kind. */
  domainId: z.string().optional(),
  reference: z.string(),
  manifestDigest: z.string(),
  /** `erofs`: raw EROFS layers. `rafs`: a Nydus image. */
  format: z.enum(["erofs", "rafs"]),
  /** Of all its streams, as the kernel addresses them. */
  sizeBytes: bytes,
  /** Of `sizeBytes`, what is on this machine; blobs that images share count for each of them. */
  cachedBytes: bytes,
  /** The kernel has it open: it is mounted, or was a moment ago. */
  open: z.boolean(),
  /** Extra devices beside the primary one. */
  deviceCount: z.int().nonnegative(),
});
export type ImageSummary = z.infer<typeof imageSummary>;

/** GET /v1/images */
export const imagesAnswer = z.strictObject({ images: z.array(imageSummary) });
export type Images = z.infer<typeof imagesAnswer>;

const streamDetail = z.strictObject({
  digest: z.string(),
  /** `bootstrap` and `device` as EROFS means them: the primary device, and the extra ones. */
  role: z.enum(["bootstrap", "device"]),
  /** Where its bytes come from: a registry's repository, or a directory. */
  origin: z.string(),
  sizeBytes: bytes,
  cachedBytes: bytes,
  open: z.boolean(),
  /** READs of the kernel since the daemon's start, in whatever image. */
  reads: z.int().nonnegative(),
  readBytes: bytes,
  failedReads: z.int().nonnegative(),
  fetchedBytes: bytes,
});

/** GET /v1/images/{name} */
export const imageDetail = imageSummary.extend({
  /** The kernel is told no new mount of it: only what is mounted is served. */
  unbound: z.boolean(),
  streams: z.array(streamDetail),
  /** The last one of the past minutes. */
  lastFailure: failure.extend({ at: z.string() }).optional(),
});
export type ImageDetail = z.infer<typeof imageDetail>;

/** GET /v1/cache */
export const cacheAnswer = z.strictObject({
  dir: z.string(),
  /**
   * Blocks that the kernel's cache files take. One that is filled for the first time has no name,
   * and does not count, until the kernel closes it.
   */
  usedBytes: bytes,
  /** What is cached of objects that are open now, whether their files have a name or not. */
  openBytes: bytes,
  files: z.int().nonnegative(),
  filesystem: z.strictObject({
    sizeBytes: bytes,
    freeBytes: bytes,
    inodes: bytes,
    freeInodes: bytes,
  }),
  /** Of the filesystem's blocks: culling starts when less than `bcull` per cent are free. */
  limitsPercent: z.strictObject({ brun: z.number(), bcull: z.number(), bstop: z.number() }),
});
export type CacheUsage = z.infer<typeof cacheAnswer>;

const at = z.strictObject({
  /** Counts up by one; a gap: events that this client was too slow to take. */
  id: z.int().positive(),
  /** RFC 3339. */
  at: z.string(),
});
/** Of the image what the daemon knows of it. */
const mountFacts = {
  mountPoint: z.string(),
  door: z.enum(DOORS),
  fsid: z.string().optional(),
  reference: z.string().optional(),
  manifestDigest: z.string().optional(),
};
const objectFacts = { fsid: z.string(), volume: z.string() };

/** GET /v1/events: the `data:` of each event; `event:` is its `type`. */
export const eventData = z.discriminatedUnion("type", [
  at.extend({
    type: z.literal("image-bound"),
    fsid: z.string(),
    reference: z.string(),
    manifestDigest: z.string(),
  }),
  at.extend({ type: z.literal("mounted"), ...mountFacts }),
  at.extend({ type: z.literal("unmounted"), ...mountFacts }),
  at.extend({ type: z.literal("object-opened"), ...objectFacts, sizeBytes: bytes }),
  at.extend({ type: z.literal("object-closed"), ...objectFacts }),
  at.extend({ type: z.literal("open-failed"), fsid: z.string(), failure }),
  at.extend({ type: z.literal("fill-failed"), fsids: z.array(z.string()), failure }),
  at.extend({ type: z.literal("stopping") }),
  /** So many events are missing before the next one. */
  at.extend({ type: z.literal("dropped"), count: z.int().positive() }),
]);
export type EventData = z.infer<typeof eventData>;

type Without<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;
/** What is told of; who keeps events adds the rest. */
export type Happening = Without<EventData, "id" | "at">;
