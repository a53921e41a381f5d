// SPDX-License-Identifier: Apache-2.0
// `erofsd prefetch`: starts one and shows how it gets on, lists them, ends one, changes one. Ctrl-C
// ends the watching; the daemon goes on.

import { readFile } from "node:fs/promises";
import { RemoteError, ask, askStream, unreachableAt } from "../control/client.ts";
import { errnoName } from "../control/socket-place.ts";
import {
  type ChangePrefetch,
  type PrefetchView,
  type StartPrefetch,
  prefetchView,
  prefetchesAnswer,
  startedPrefetch,
} from "../control/prefetch-schema.ts";
import { type Trace, parseTrace } from "../image/trace-format.ts";
import { DaemonError } from "../errors.ts";
import { absoluteReference } from "./absolute-reference.ts";
import { eventDataOf } from "./event-data.ts";
import { type Output, jsonLine, printable, share, size, styleOf, table } from "./output.ts";
import { ProgressLine, timeLeft } from "./progress.ts";

export interface PrefetchGiven {
  readonly socketPath: string;
  readonly json: boolean;
  readonly reference: string;
  readonly fsid: string | undefined;
  readonly paths: readonly string[];
  readonly globs: readonly string[];
  /** A file. */
  readonly trace: string | undefined;
  readonly change: ChangePrefetch;
  /** Undefined: as it is usual here, which is to wait. */
  readonly wait: boolean;
  /** Ctrl-C ends the prefetch too. */
  readonly cancelOnInterrupt: boolean;
}

export async function prefetchCommand(
  given: PrefetchGiven,
  output: Output = process.stdout,
): Promise<void> {
  const { socketPath, json } = given;
  const started = await ask(socketPath, {
    method: "POST",
    path: "/v1/prefetches",
    body: await requestOf(given),
    answer: startedPrefetch,
  });
  if (!given.wait) {
    const what = started.joined ? "joined what was under way" : "started";
    output.write(json ? jsonLine(started) : `${started.id}: ${what}\n`);
    return;
  }
  const { joined: _, ...first } = started;
  const last = await watched(given, first, output);
  if (last === undefined) return;
  if (json) output.write(jsonLine(last));
  else output.write(`${last.id}: ${endOf(last)}\n`);
  if (last.state !== "failed" || last.failure === undefined) return;
  throw new RemoteError(last.failure);
}

/** How it has ended; undefined when it was not waited for to its end. */
async function watched(
  given: PrefetchGiven,
  first: PrefetchView,
  output: Output,
): Promise<PrefetchView | undefined> {
  const interrupt = new AbortController();
  const stop = (): void => {
    interrupt.abort();
  };
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  const line = new ProgressLine(output, !given.json);
  const path = `/v1/prefetches/${first.id}/events`;
  let last = first;
  try {
    for await (const text of eventDataOf(askStream(given.socketPath, path, interrupt.signal))) {
      last = prefetchView.parse(JSON.parse(text));
      line.show(progressOf(last));
    }
  } finally {
    line.clear();
    process.removeListener("SIGINT", stop);
    process.removeListener("SIGTERM", stop);
  }
  if (last.state !== "waiting" && last.state !== "running") return last;
  if (!interrupt.signal.aborted) {
    const { socketPath } = given;
    const detail = "it stopped; the prefetch goes on when it is there again";
    throw unreachableAt(socketPath, detail);
  }
  if (given.cancelOnInterrupt) await cancelPrefetch({ ...given, id: first.id }, output);
  else process.stderr.write(`erofsd: prefetch ${first.id} goes on in the daemon\n`);
  return undefined;
}

export async function listPrefetches(
  given: { readonly socketPath: string; readonly json: boolean },
  output: Output = process.stdout,
): Promise<void> {
  const answer = await ask(given.socketPath, {
    method: "GET",
    path: "/v1/prefetches",
    answer: prefetchesAnswer,
  });
  if (given.json) {
    output.write(jsonLine(answer));
    return;
  }
  const style = styleOf(output);
  const rows = answer.prefetches.map((each) => [
    each.id,
    each.failure === undefined ? each.state : style.bad(each.state),
    share(each.cachedBytes, each.totalBytes),
    size(each.totalBytes),
    each.bytesPerSecond === 0 ? "-" : `${size(each.bytesPerSecond)}/s`,
    timeLeft(each.secondsLeft),
    String(each.priority),
    each.kind,
    each.reference,
  ]);
  const heads = ["ID", "STATE", "DONE", "OF", "SPEED", "LEFT", "PRIORITY", "WHAT", "REFERENCE"];
  output.write(table(heads, rows, style));
}

export async function cancelPrefetch(
  given: { readonly socketPath: string; readonly json: boolean; readonly id: string },
  output: Output = process.stdout,
): Promise<void> {
  const path = `/v1/prefetches/${encodeURIComponent(given.id)}`;
  const view = await ask(given.socketPath, { method: "DELETE", path, answer: prefetchView });
  output.write(given.json ? jsonLine(view) : `${view.id}: ${endOf(view)}\n`);
}

export async function changePrefetch(
  given: {
    readonly socketPath: string;
    readonly json: boolean;
    readonly id: string;
    readonly change: ChangePrefetch;
  },
  output: Output = process.stdout,
): Promise<void> {
  const path = `/v1/prefetches/${encodeURIComponent(given.id)}`;
  const request = { method: "PATCH", path, body: given.change, answer: prefetchView } as const;
  const view = await ask(given.socketPath, request);
  output.write(given.json ? jsonLine(view) : `${view.id}: changed\n`);
}

async function requestOf(given: PrefetchGiven): Promise<StartPrefetch> {
  const { reference, fsid, paths, globs, trace, change } = given;
  return {
    reference: absoluteReference(reference),
    ...(fsid === undefined ? {} : { fsid }),
    ...(paths.length === 0 ? {} : { paths: [...paths] }),
    ...(globs.length === 0 ? {} : { globs: [...globs] }),
    ...(trace === undefined ? {} : { trace: packed(await readTrace(trace)) }),
    ...change,
  };
}

async function readTrace(path: string): Promise<Trace> {
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    const detail = `${path} cannot be read (${errnoName(error)})`;
    throw new DaemonError({ code: "usage_invalid", detail }, { cause: error });
  });
  return parseTrace(text, path);
}

/** What is read again says nothing new. */
function packed({ image, streams, reads }: Trace): NonNullable<StartPrefetch["trace"]> {
  const seen = new Set<string>();
  const first = reads.flatMap(({ stream, offset, length }): [number, number, number][] => {
    const id = `${stream} ${offset} ${length}`;
    if (seen.has(id)) return [];
    seen.add(id);
    return [[stream, offset, length]];
  });
  return {
    ...(image === undefined ? {} : { image }),
    streams: streams.map(({ stream, digest }) => ({ stream, digest })),
    reads: first,
  };
}

function progressOf(view: PrefetchView) {
  const { cachedBytes, totalBytes, bytesPerSecond, secondsLeft, state, failure } = view;
  const problem = failure === undefined ? "" : `  ${printable(failure.message)}`;
  const note = state === "waiting" ? `  waiting${problem}` : problem;
  return { done: cachedBytes, total: totalBytes, bytesPerSecond, secondsLeft, note };
}

function endOf({ state, cachedBytes, totalBytes, failure }: PrefetchView): string {
  const done = `${size(cachedBytes)} of ${size(totalBytes)} cached`;
  return `${state}, ${done}${failure === undefined ? "" : `: ${printable(failure.message)}`}`;
}
