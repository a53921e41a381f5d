// SPDX-License-Identifier: Apache-2.0
// `erofsd trace record`: what the daemon is asked for, into a file or onto stdout, until the time
// is up or Ctrl-C.

import { createWriteStream } from "node:fs";
import { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { askStream } from "../control/client.ts";
import { DaemonError } from "../errors.ts";

export interface TraceOptions {
  readonly socketPath: string;
  /** Undefined: stdout. */
  readonly output: string | undefined;
  readonly seconds: number | undefined;
  readonly keys: readonly string[];
}

export async function recordTrace(options: TraceOptions): Promise<void> {
  const interrupt = new AbortController();
  const stop = (): void => {
    interrupt.abort();
  };
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  try {
    await record(options, interrupt.signal);
  } finally {
    process.removeListener("SIGINT", stop);
    process.removeListener("SIGTERM", stop);
  }
}

async function record(options: TraceOptions, signal: AbortSignal): Promise<void> {
  const { socketPath, output, seconds, keys } = options;
  const query = new URLSearchParams();
  for (const key of keys) query.append("key", key);
  if (seconds !== undefined) query.set("seconds", String(seconds));
  const sink = output === undefined ? toStdout() : createWriteStream(output);
  const lines = new Lines();
  try {
    const pieces = askStream(socketPath, `/v1/trace?${query.toString()}`, signal);
    await pipeline(lines.through(pieces), sink);
  } catch (error) {
    throw ofFile(error) ?? error;
  }
  if (signal.aborted || lines.last.startsWith('{"end":')) return;
  throw new DaemonError({ code: "daemon_unreachable", socketPath, detail: "the trace broke off" });
}

/** Remembers the last line of what goes through it. */
class Lines {
  last = "";

  async *through(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
    let tail = "";
    for await (const piece of pieces) {
      tail = (tail + Buffer.from(piece).toString("latin1")).slice(-TAIL_CHARACTERS);
      this.last = tail.trimEnd().split("\n").at(-1) ?? "";
      yield piece;
    }
  }
}

/** What the file's writing failed with. */
function ofFile(error: unknown): DaemonError | undefined {
  if (error instanceof DaemonError || !(error instanceof Error)) return undefined;
  if (!("syscall" in error && "errno" in error && "code" in error)) return undefined;
  return new DaemonError(
    {
      code: "syscall_failed",
      syscall: String(error.syscall),
      errno: Math.abs(Number(error.errno)),
      errnoName: String(error.code),
      detail: error.message,
    },
    { cause: error },
  );
}

/** More than a last line has. */
const TAIL_CHARACTERS = 256;

/** Not stdout itself: the end of a trace must not close it. */
function toStdout(): Writable {
  return new Writable({
    write(piece: Uint8Array, _, done) {
      process.stdout.write(piece, done);
    },
  });
}
