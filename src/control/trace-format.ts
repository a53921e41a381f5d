// SPDX-License-Identifier: Apache-2.0
// The trace of what readers ask for, as `erofsd trace record` writes it: a line of JSON each.
//
//   {"erofsdTrace":1,"startedAt":"2026-01-31T12:00:00.000Z","version":"0.1.0"}   first
//   {"stream":0,"digest":"sha256:...","key":"...","sizeBytes":4096}   before its first READ
//   {"ms":12.3,"stream":0,"offset":0,"length":4096}   a READ, `ms` after the start
//   {"dropped":7}   so many READs are missing here: whoever records was too slow
//   {"end":"time","reads":1,"dropped":0}   last, unless the trace was broken off
//
// Readers of the format pass over lines and fields that they do not know.

import * as z from "zod";

export const TRACE_VERSION = 1;

export const traceHead = z.object({
  erofsdTrace: z.literal(TRACE_VERSION),
  startedAt: z.string(),
  version: z.string(),
});
export const traceStream = z.object({
  stream: z.int().min(0),
  digest: z.string(),
  /** The cookie key of the object it was first read through. */
  key: z.string(),
  sizeBytes: z.number(),
});
export const traceRead = z.object({
  ms: z.number(),
  stream: z.int().min(0),
  offset: z.number(),
  length: z.number(),
});
export const traceEnd = z.object({
  /** `time`: as long as was asked for. */
  end: z.enum(["time", "stopping"]),
  reads: z.number(),
  dropped: z.number(),
});

export type TraceLine =
  | z.infer<typeof traceHead>
  | z.infer<typeof traceStream>
  | z.infer<typeof traceRead>
  | z.infer<typeof traceEnd>
  | { readonly dropped: number };

export interface Trace {
  readonly streams: readonly z.infer<typeof traceStream>[];
  readonly reads: readonly z.infer<typeof traceRead>[];
}

/** Throws when it is no trace of this version. */
export function parseTrace(text: string): Trace {
  const [head, ...lines] = text.split("\n").filter((line) => line !== "");
  traceHead.parse(JSON.parse(head ?? "{}"));
  const streams: z.infer<typeof traceStream>[] = [];
  const reads: z.infer<typeof traceRead>[] = [];
  for (const line of lines) {
    const value: unknown = JSON.parse(line);
    const read = traceRead.safeParse(value);
    const stream = traceStream.safeParse(value);
    if (read.success) reads.push(read.data);
    else if (stream.success) streams.push(stream.data);
  }
  return { streams, reads };
}
