// SPDX-License-Identifier: Apache-2.0
// Giving up what is cached, over the control socket, and changing the configuration while it is used.

import * as z from "zod";

const bytes = z.int().nonnegative();

/** POST /v1/cache/prune: all that is given must hold of what goes. */
export const pruneRequest = z
  .strictObject({
    /** An fsid, reference or manifest digest: what no other known image has too. */
    image: z.string().min(1).max(4096).optional(),
    /** Not used for so long. */
    olderThanSeconds: z.number().nonnegative().max(1e10).optional(),
    /** What may stay of the whole cache; the files used last do. */
    leaveBytes: bytes.optional(),
    /** All that is not in use, where nothing else is given. */
    all: z.literal(true).optional(),
  })
  .refine((wish) => Object.values(wish).some((value) => value !== undefined), {
    message: "say what: image, olderThanSeconds, leaveBytes or all",
  });
export type PruneRequest = z.infer<typeof pruneRequest>;

export const prunedAnswer = z.strictObject({
  files: z.int().nonnegative(),
  bytes,
  /** Files that stay because they are in use. */
  inUse: z.int().nonnegative(),
});
export type PrunedAnswer = z.infer<typeof prunedAnswer>;

/** DELETE /v1/images/{name} */
export const removedImage = z.strictObject({
  fsid: z.string(),
  reference: z.string(),
  manifestDigest: z.string(),
  /** What was given up of the cache with it. */
  files: z.int().nonnegative(),
  bytes,
});
export type RemovedImage = z.infer<typeof removedImage>;

/** PATCH /v1/config: `{"log.level": "debug"}`; until the daemon stops. */
export const changeConfig = z
  .record(z.string().min(1).max(100), z.union([z.string().max(1000), z.number(), z.boolean()]))
  .refine((changes) => Object.keys(changes).length > 0, { message: "it changes nothing" });
export type ChangeConfig = z.infer<typeof changeConfig>;
