// SPDX-License-Identifier: Apache-2.0
// `erofsd trace record`: what the daemon is asked for, with the files it is about, into a file or
// onto stdout, when the time is up or on Ctrl-C.

import { rename, rm, writeFile } from "node:fs/promises";
import * as z from "zod";
import { askStream, unreachableAt } from "../control/client.ts";
import type { ImageDetail } from "../control/image-schema.ts";
import { fileLine } from "../control/schema.ts";
import { DaemonError, asDaemonError } from "../errors.ts";
import { TouchedExtents } from "../image/trace-files.ts";
import { type Trace, type TraceFile, TraceReader } from "../image/trace-format.ts";
import { findImage } from "./mounted-image.ts";

export interface TraceOptions {
  readonly socketPath: string;
  /** A mount point, or an image's name; undefined: all that is read. */
  readonly mount?: string | undefined;
  /** Undefined: stdout. */
  readonly output: string | undefined;
  readonly seconds: number | undefined;
  readonly keys: readonly string[];
}

const END = z.object({ end: z.string() });

/** Faults: image_unknown, daemon_unreachable when the trace breaks off, syscall_failed. */
export async function recordTrace(options: TraceOptions): Promise<void> {
  const { socketPath, mount, output } = options;
  const image = mount === undefined ? undefined : await findImage(socketPath, mount);
  const interrupt = new AbortController();
  const stop = (): void => {
    interrupt.abort();
  };
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  try {
    const { lines, trace } = await record(options, image, interrupt.signal);
    const files = image === undefined ? [] : await namesOf(socketPath, image, trace);
    const end = lines.pop() ?? "";
    const text = [...lines, ...files.map((file) => JSON.stringify(file)), end, ""].join("\n");
    if (output === undefined) process.stdout.write(text);
    else await writeWhole(output, text);
    if (output !== undefined) tell(`${output}: ${trace.reads.length} reads, ${files.length} files`);
  } finally {
    process.removeListener("SIGINT", stop);
    process.removeListener("SIGTERM", stop);
  }
}

async function record(
  { socketPath, seconds, keys }: TraceOptions,
  image: ImageDetail | undefined,
  signal: AbortSignal,
): Promise<{ lines: string[]; trace: Trace }> {
  const query = new URLSearchParams();
  for (const key of keys) query.append("key", key);
  if (seconds !== undefined) query.set("seconds", String(seconds));
  if (image !== undefined) query.set("image", image.fsid);
  const reader = new TraceReader("what the daemon sends");
  const lines: string[] = [];
  let reads = 0;
  for await (const line of linesOf(
    askStream(socketPath, `/v1/trace?${query.toString()}`, signal),
  )) {
    if (lines.length === 0) tell("recording; Ctrl-C ends it");
    reader.line(line);
    lines.push(line);
    if (line.startsWith('{"ms"')) reads += 1;
  }
  const last: unknown = JSON.parse(lines.at(-1) ?? "{}");
  if (!END.safeParse(last).success) {
    if (!signal.aborted) {
      const detail = "the trace broke off";
      throw unreachableAt(socketPath, detail);
    }
    const end = JSON.stringify({ end: "interrupted", reads, dropped: 0 });
    reader.line(end);
    lines.push(end);
  }
  return { lines, trace: reader.finish() };
}

/** The files that were read; none, with a word on stderr, when the image does not tell. */
async function namesOf(
  socketPath: string,
  image: ImageDetail,
  { streams, reads }: Trace,
): Promise<TraceFile[]> {
  const touched = new TouchedExtents(reads);
  const numbers = image.streams.map(
    ({ digest }) => streams.find((stream) => stream.digest === digest)?.stream,
  );
  const files: TraceFile[] = [];
  try {
    for await (const { file, parts } of listFiles(socketPath, image.fsid)) {
      const own = parts.flatMap(([device, offset, length]): TraceFile["parts"] => {
        const stream = numbers[device];
        return stream !== undefined && touched.touches(stream, { offset, length })
          ? [[stream, offset, length]]
          : [];
      });
      if (own.length > 0) files.push({ file, parts: own });
    }
    return files;
  } catch (error) {
    tell(`without names of files: ${asDaemonError(error).message}`);
    return [];
  }
}

export interface ListedFile {
  readonly file: string;
  /** Device, offset and length. */
  readonly parts: readonly (readonly [number, number, number])[];
}

/** The files of an image that the daemon knows. Rejects as askStream, also when the list breaks off. */
export async function* listFiles(
  socketPath: string,
  name: string,
): AsyncGenerator<ListedFile, void> {
  const path = `/v1/images/${encodeURIComponent(name)}/files`;
  const never = new AbortController().signal;
  for await (const line of linesOf(askStream(socketPath, path, never))) {
    const value = fileLine.parse(JSON.parse(line));
    if ("end" in value) return;
    yield value;
  }
  const detail = "the list of files broke off";
  throw unreachableAt(socketPath, detail);
}

async function* linesOf(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of pieces) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line !== "") yield line;
  }
}

/** There is a whole file, or the one that was there before. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const partial = `${path}.${process.pid}.partial`;
  try {
    await writeFile(partial, text);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true }).catch(() => undefined);
    throw ofFile(error, path);
  }
}

/** What the file's reading or writing failed with. */
export function ofFile(error: unknown, path: string): unknown {
  if (error instanceof DaemonError || !(error instanceof Error)) return error;
  if (!("syscall" in error && "errno" in error && "code" in error)) return error;
  return new DaemonError(
    {
      code: "syscall_failed",
      syscall: String(error.syscall),
      errno: Math.abs(Number(error.errno)),
      errnoName: String(error.code),
      detail: path,
    },
    { cause: error },
  );
}

/** For whoever waits: stdout may be the trace itself. */
function tell(text: string): void {
  process.stderr.write(`erofsd: ${text}\n`);
}
