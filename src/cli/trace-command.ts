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
    // When it is the file that failed, the daemon is still sending.
    stop();
  }
}

async function record(options: TraceOptions, signal: AbortSignal): Promise<void> {
  const { socketPath, output, seconds, keys } = options;
  const query = new URLSearchParams();
  for (const key of keys) query.append("key", key);
  if (seconds !== undefined) query.set("seconds", String(seconds));
  const lines = new Lines();
  try {
    const pieces = askStream(socketPath, `/v1/trace?${query.toString()}`, signal);
    // There is a daemon: only now is the file begun.
    const first = await pieces.next();
    const sink = output === undefined ? toStdout() : createWriteStream(output);
    await pipeline(lines.through(first, pieces), sink);
  } catch (error) {
    throw ofFile(error) ?? error;
  }
  if (signal.aborted || lines.last.startsWith('{"end":')) return;
  throw new DaemonError({ code: "daemon_unreachable", socketPath, detail: "the trace broke off" });
}

/** Remembers the last line of what goes through it. */
class Lines {
  last = "";
  #tail = "";

  async *through(
    first: IteratorResult<Uint8Array, void>,
    rest: AsyncIterable<Uint8Array>,
  ): AsyncGenerator<Uint8Array, void> {
    if (first.done === true) return;
    yield this.#keep(first.value);
    for await (const piece of rest) yield this.#keep(piece);
  }

  #keep(piece: Uint8Array): Uint8Array {
    this.#tail = (this.#tail + Buffer.from(piece).toString("latin1")).slice(-TAIL_CHARACTERS);
    this.last = this.#tail.trimEnd().split("\n").at(-1) ?? "";
    return piece;
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
