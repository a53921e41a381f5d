// SPDX-License-Identifier: Apache-2.0
// What one process under test is told to do, and what it says when it has.

import * as z from "zod";
import { imageSchema } from "./images.ts";

const workload = z.discriminatedUnion("kind", [
  /** The stream from start to end, each reader its share. */
  z.object({ kind: z.literal("sequential"), readers: z.int().min(1) }),
  /** Single blocks anywhere. */
  z.object({
    kind: z.literal("random"),
    count: z.int(),
    thinkMs: z.number(),
    prefetch: z.boolean(),
  }),
  /** Every file of the image. */
  z.object({ kind: z.literal("files") }),
  /** What a program read when it started, without its pauses. */
  z.object({ kind: z.literal("start"), how: z.enum(["cold", "traced", "warm"]) }),
  /** READs of what is cached. */
  z.object({ kind: z.literal("cached"), count: z.int() }),
]);

export const taskSchema = z.object({
  /** A directory of its own. */
  home: z.string(),
  /** `host:port`. */
  registry: z.string(),
  image: imageSchema,
  config: z.string(),
  workload,
});
export type Task = z.infer<typeof taskSchema>;
export type Workload = z.infer<typeof workload>;

export const outcomeSchema = z.object({
  /** From the OPEN of the image to that of its last device. */
  mountMs: z.number(),
  /** Of the workload alone. */
  ms: z.number(),
  /** Of each reader. */
  readerMs: z.array(z.number()),
  /** Of each read that needed READs. */
  missMs: z.array(z.number()),
  hits: z.number(),
  reads: z.number(),
  writtenBytes: z.number(),
  /** Processor time of the workload, user and system, all threads. */
  cpuMs: z.number(),
  /** Resident memory: at the workload's start, and at its highest. */
  startRssBytes: z.number(),
  peakRssBytes: z.number(),
});
export type Outcome = z.infer<typeof outcomeSchema>;
