// SPDX-License-Identifier: Apache-2.0
// The trace of what readers ask for, as `erofsd trace record` writes it: a line of JSON each.
//
//   {"erofsdTrace":1,"startedAt":"2026-01-31T12:00:00.000Z","version":"0.1.0",
//    "image":{"reference":"...","manifestDigest":"sha256:..."}}   first; `image` when it is of one
//   {"stream":0,"digest":"sha256:...","key":"...","sizeBytes":4096}   before its first READ
//   {"ms":12.3,"stream":0,"offset":0,"length":4096}   a READ, `ms` after the start
//   {"dropped":7}   so many READs are missing here: whoever records was too slow
//   {"file":"/bin/true","parts":[[0,0,4096]]}   where that file lies: stream, offset, length
//   {"end":"time","reads":1,"dropped":0}   last: without it, the trace was cut off
//
// Readers of the format pass over lines and fields that they do not know. Pure.

import * as z from "zod";
import { DaemonError } from "../errors.ts";
import { BLOCK_BYTES, type Extent, KIB, MIB, alignUp } from "../units.ts";

export const TRACE_VERSION = 1;
/** Of a trace as text. */
export const TRACE_BYTES_MAX = 32 * MIB;
export const TRACE_READS_MAX = 128 * KIB;
const STREAMS_MAX = 2048;
const FILES_MAX = 128 * KIB;
const TEXT_MAX = 4096;

const count = z.int().nonnegative();
const ms = z.number().min(0).max(1e9);
const traceImage = z.object({
  reference: z.string().max(TEXT_MAX),
  manifestDigest: z.string().max(TEXT_MAX),
});
const traceHead = z.object({
  erofsdTrace: z.literal(TRACE_VERSION),
  startedAt: z.string().max(TEXT_MAX),
  version: z.string().max(TEXT_MAX),
  image: traceImage.optional(),
});
const traceStream = z.object({
  stream: count,
  digest: z.string().max(TEXT_MAX),
  /** The cookie key of the object it was first read through. */
  key: z.string().max(TEXT_MAX),
  sizeBytes: count,
});
const traceRead = z.object({ ms, stream: count, offset: count, length: z.int().positive() });
const traceFile = z.object({
  /** From the image's root; bytes that are no UTF-8 are replaced. */
  file: z.string().max(64 * KIB),
  parts: z.array(z.tuple([count, count, z.int().positive()])).max(FILES_MAX),
});
const traceEnd = z.object({
  /** `time`: as long as was asked for. `interrupted`: whoever recorded had enough. */
  end: z.enum(["time", "stopping", "interrupted"]),
  reads: count,
  dropped: count,
});
const traceDropped = z.object({ dropped: z.int().positive() });

export type TraceImage = z.infer<typeof traceImage>;
export type TraceStream = z.infer<typeof traceStream>;
export type TraceRead = z.infer<typeof traceRead>;
export type TraceFile = z.infer<typeof traceFile>;
export type TraceLine =
  | z.infer<typeof traceHead>
  | TraceStream
  | TraceRead
  | TraceFile
  | z.infer<typeof traceEnd>
  | z.infer<typeof traceDropped>;

export interface Trace {
  readonly startedAt: string;
  /** Undefined: of all that was read on a machine. */
  readonly image: TraceImage | undefined;
  readonly streams: readonly TraceStream[];
  /** As they came. */
  readonly reads: readonly TraceRead[];
  readonly files: readonly TraceFile[];
  readonly dropped: number;
}

/** Fault: trace_invalid, which names the line, when it is no whole trace of this version. */
export function parseTrace(text: string, where: string): Trace {
  const reader = new TraceReader(where);
  let from = 0;
  while (from < text.length) {
    const at = text.indexOf("\n", from);
    const end = at === -1 ? text.length : at;
    reader.line(text.slice(from, end));
    from = end + 1;
  }
  return reader.finish();
}

/** Takes a trace line by line. Faults as parseTrace. */
export class TraceReader {
  readonly #where: string;
  readonly #streams = new Map<number, TraceStream>();
  readonly #reads: TraceRead[] = [];
  readonly #files: TraceFile[] = [];
  #head: z.infer<typeof traceHead> | undefined;
  #end: z.infer<typeof traceEnd> | undefined;
  #lines = 0;
  #bytes = 0;

  constructor(where: string) {
    this.#where = where;
  }

  line(text: string): void {
    this.#lines += 1;
    this.#bytes += text.length + 1;
    if (this.#bytes > TRACE_BYTES_MAX)
      throw this.#fail(`it has more than ${TRACE_BYTES_MAX} bytes`);
    if (text === "") return;
    const value = this.#json(text);
    if (this.#head === undefined) {
      this.#head = this.#parseHead(value);
      return;
    }
    if (this.#end !== undefined) throw this.#fail("something comes behind its end");
    if ("digest" in value) this.#addStream(this.#check(traceStream, value));
    else if ("ms" in value) this.#addRead(this.#check(traceRead, value));
    else if ("file" in value) this.#addFile(this.#check(traceFile, value));
    else if ("end" in value) this.#end = this.#check(traceEnd, value);
    else if ("dropped" in value) this.#check(traceDropped, value);
  }

  finish(): Trace {
    const [head, end] = [this.#head, this.#end];
    if (head === undefined) throw this.#fail("it is empty");
    if (end === undefined) throw this.#fail("it is cut off: its last line is missing");
    if (end.reads !== this.#reads.length) {
      throw this.#fail(`it has ${this.#reads.length} of ${end.reads} reads`);
    }
    const { startedAt, image } = head;
    return {
      startedAt,
      image,
      streams: [...this.#streams.values()],
      reads: this.#reads,
      files: this.#files,
      dropped: end.dropped,
    };
  }

  #parseHead(value: object): z.infer<typeof traceHead> {
    if (!("erofsdTrace" in value)) throw this.#fail("it is no trace of erofsd");
    if (value.erofsdTrace !== TRACE_VERSION) {
      const version = String(value.erofsdTrace).slice(0, 32);
      throw this.#fail(`it is a trace of version ${version}; known is ${TRACE_VERSION}`);
    }
    return this.#check(traceHead, value);
  }

  #addStream(stream: TraceStream): void {
    if (this.#streams.has(stream.stream)) throw this.#fail("its stream has come before");
    if (this.#streams.size >= STREAMS_MAX) throw this.#fail(`more than ${STREAMS_MAX} streams`);
    this.#streams.set(stream.stream, stream);
  }

  #addRead(read: TraceRead): void {
    if (this.#reads.length >= TRACE_READS_MAX) {
      throw this.#fail(`more than ${TRACE_READS_MAX} reads`);
    }
    this.#checkWithin(read.stream, read);
    this.#reads.push(read);
  }

  #addFile(file: TraceFile): void {
    if (this.#files.length >= FILES_MAX) throw this.#fail(`more than ${FILES_MAX} files`);
    for (const [stream, offset, length] of file.parts)
      this.#checkWithin(stream, { offset, length });
    this.#files.push(file);
  }

  #checkWithin(stream: number, { offset, length }: Extent): void {
    const known = this.#streams.get(stream);
    if (known === undefined) throw this.#fail(`stream ${stream} has not been named`);
    if (offset + length > alignUp(known.sizeBytes, BLOCK_BYTES)) {
      throw this.#fail(`it is beyond the end of stream ${stream}`);
    }
  }

  #json(text: string): object {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw this.#fail(this.#head === undefined ? "it is no trace of erofsd" : "it is not JSON");
    }
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
    throw this.#fail("it is no JSON object");
  }

  #check<T>(schema: z.ZodType<T>, value: object): T {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    const [issue] = result.error.issues;
    throw this.#fail(`${issue?.path.map(String).join(".") ?? ""}: ${issue?.message ?? "is wrong"}`);
  }

  #fail(detail: string): DaemonError {
    const where = `${this.#where}, line ${this.#lines}`;
    return new DaemonError({ code: "trace_invalid", where, detail });
  }
}

const PIECE_BYTES = 128 * KIB;

/** As parseTrace, of UTF-8 and a piece at a time; `pause` is awaited in between. */
export async function readTrace(
  bytes: Uint8Array,
  where: string,
  pause: () => Promise<void>,
): Promise<Trace> {
  const reader = new TraceReader(where);
  const decoder = new TextDecoder();
  let rest = "";
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    rest += decoder.decode(bytes.subarray(at, at + PIECE_BYTES), { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) reader.line(line);
    await pause();
  }
  if (rest !== "") reader.line(rest);
  return reader.finish();
}
