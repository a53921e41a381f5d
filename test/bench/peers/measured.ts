// SPDX-License-Identifier: Apache-2.0
// What is compared with peers, over which link, and what the guest reports of it.

import * as z from "zod";

export const ROUND_TRIP_MS = 20;
/** Bytes a second. */
export const BANDWIDTH = 20_000_000;

export const WORKLOADS = [
  "first 4 KiB",
  "sequential",
  "start",
  "prefetched start",
  "random",
  "16 readers",
  "tar",
] as const;
export type Workload = (typeof WORKLOADS)[number];

const measured = z.object({
  workload: z.enum([...WORKLOADS, "download"]),
  daemon: z.enum(["nydusd", "ours", "curl"]),
  /** Of the workload's reads together, or of its program. */
  seconds: z.number(),
  details: z.record(z.string(), z.number()),
});
export const measuredList = z.array(measured);
export type Measured = z.infer<typeof measured>;
