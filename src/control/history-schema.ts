// SPDX-License-Identifier: Apache-2.0
// GET /v1/images/{name}/history: what an open image was asked for, and what was fetched of it,
// since its streams were opened. Times are in milliseconds from the first thing that happened.

import * as z from "zod";

const bytes = z.number().nonnegative();

const streamHistory = z.strictObject({
  digest: z.string(),
  role: z.enum(["bootstrap", "device"]),
  sizeBytes: bytes,
  cachedBytes: bytes,
  fetchedBytes: bytes,
  open: z.boolean(),
  /** The stream cut into as many equal parts: how many per cent of each is cached now. */
  cached: z.array(z.number()),
  /** Readers that waited: since, until, offset, length. */
  waits: z.array(z.tuple([z.number(), z.number(), z.number(), z.number()])),
  /** So many waited later, of whom nothing else is kept. */
  laterWaits: z.number(),
  /** Fetches: since, until, offset, length, and whether a reader waited (0), would (1) or might (2). */
  fills: z.array(z.tuple([z.number(), z.number(), z.number(), z.number(), z.number()])),
  laterFills: z.number(),
});
export type StreamHistoryAnswer = z.infer<typeof streamHistory>;

export const imageHistory = z.strictObject({
  reference: z.string(),
  manifestDigest: z.string(),
  format: z.enum(["erofs", "rafs"]),
  /** When the first thing happened, RFC 3339. */
  startedAt: z.string(),
  /** From then until now. */
  ms: z.number(),
  /** The bootstrap first, then the devices in their order. */
  streams: z.array(streamHistory),
});
export type ImageHistory = z.infer<typeof imageHistory>;
