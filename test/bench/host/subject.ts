// SPDX-License-Identifier: Apache-2.0
// The process under test: the daemon's rooms without a kernel, one image, one workload. Alone in
// its process, so that its memory and processor time are nobody else's.
//   subject.js TASK-AS-JSON

import { readFile } from "node:fs/promises";
import { optimizeLater } from "../../../src/platform/optimize-later.ts";
import { BLOCK_BYTES, KIB, MIB, alignDown } from "../../../src/units.ts";
import { seededRandom } from "../../support/seeded-random.ts";
import type { FileObject } from "./file-door.ts";
import { Reader } from "./readers.ts";
import { type Serving, mountImage, prefetchAll, replayTrace, serve } from "./serving.ts";
import { startTrace } from "./start-trace.ts";
import { type Outcome, type Task, taskSchema } from "./workload.ts";

/** Of the stream, for READs of what is cached. */
const CACHED_BYTES = 16 * MIB;
const CACHED_READ_BYTES = 128 * KIB;

const [, , argument = ""] = process.argv;
optimizeLater();
console.log(JSON.stringify(await run(taskSchema.parse(JSON.parse(argument)))));

async function run(task: Task): Promise<Outcome> {
  const { image } = task;
  const serving = await serve(task.home, task.config);
  const mountStartMs = performance.now();
  const object = await mountImage(serving, task.registry, image);
  const mountMs = performance.now() - mountStartMs;
  if (task.workload.kind === "cached") {
    await new Reader(serving.door, object).sequential({ offset: 0, length: CACHED_BYTES });
  }
  if (task.workload.kind === "start" && task.workload.how === "warm") {
    await replayStart(new Reader(serving.door, object));
  }
  if (task.workload.kind === "start" && task.workload.how === "traced") {
    replayTrace(serving, task.registry, image);
  }
  const startRssBytes = process.memoryUsage.rss();
  const before = process.cpuUsage();
  const readsBefore = serving.door.reads;
  const startMs = performance.now();
  const readers = await Promise.all(work(task, serving, object));
  const ms = performance.now() - startMs;
  const { user, system } = process.cpuUsage(before);
  const outcome = {
    mountMs,
    ms,
    readerMs: readers.map(({ readerMs }) => readerMs),
    missMs: readers.flatMap(({ reader }) => reader.missMs),
    hits: readers.reduce((sum, { reader }) => sum + reader.hits, 0),
    reads: serving.door.reads - readsBefore,
    writtenBytes: object.writtenBytes,
    cpuMs: (user + system) / 1000,
    startRssBytes,
    peakRssBytes: await peakRssBytes(),
  };
  await serving.stop();
  return outcome;
}

interface Ended {
  readonly reader: Reader;
  readonly readerMs: number;
}

function work(task: Task, serving: Serving, object: FileObject): Promise<Ended>[] {
  const { workload, image } = task;
  const start = (use: (reader: Reader) => Promise<void>): Promise<Ended> =>
    timed(new Reader(serving.door, object), use);
  switch (workload.kind) {
    case "sequential": {
      const share = alignDown(image.sizeBytes / workload.readers, BLOCK_BYTES);
      const extents = Array.from({ length: workload.readers }, (_, index) => ({
        offset: index * share,
        length: share,
      }));
      return extents.map((extent) => start((reader) => reader.sequential(extent)));
    }
    case "random": {
      if (workload.prefetch) prefetchAll(serving, task.registry, image);
      const options = { ...workload, random: seededRandom(5) };
      return [start((reader) => reader.random(image.sizeBytes, options))];
    }
    case "files":
      return [start((reader) => readFiles(reader, task))];
    case "start":
      return [start((reader) => replayStart(reader))];
    case "cached":
      break;
  }
  return [start(() => askCached(serving, object, workload.count))];
}

async function askCached({ door }: Serving, object: FileObject, count: number): Promise<void> {
  const random = seededRandom(5);
  for (let n = 0; n < count; n += 1) {
    const block = random.between(0, (CACHED_BYTES - CACHED_READ_BYTES) / BLOCK_BYTES);
    await door.ask(object, { offset: block * BLOCK_BYTES, length: CACHED_READ_BYTES });
  }
}

/** Each file's inode, then its bytes. */
async function readFiles(reader: Reader, { image }: Task): Promise<void> {
  for (const [inode, ...extents] of image.files ?? []) {
    if (inode !== undefined) await reader.read(inode);
    for (const extent of extents) await reader.ramp(extent);
  }
}

async function replayStart(reader: Reader): Promise<void> {
  for (const extent of startTrace().reads) await reader.read(extent);
}

async function timed(reader: Reader, use: (reader: Reader) => Promise<void>): Promise<Ended> {
  const startMs = performance.now();
  await use(reader);
  return { reader, readerMs: performance.now() - startMs };
}

async function peakRssBytes(): Promise<number> {
  const status = await readFile("/proc/self/status", "utf8");
  const [, kib = "0"] = /^VmHWM:\s+(\d+) kB$/m.exec(status) ?? [];
  return Number(kib) * KIB;
}
