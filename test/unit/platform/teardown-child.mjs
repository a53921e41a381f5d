// SPDX-License-Identifier: Apache-2.0
// Walks the addon to one step of its life and ends there, for teardown.test.ts.
// Arguments: native directory, step, way to end:
//   natural           the event loop runs empty
//   exit              process.exit() in the main thread
//   worker-exit       the step runs in a worker thread that calls process.exit()
//   worker-terminate  the step runs in a worker thread that its parent terminates
// Exit status 0 and "threads 0" on stdout (of the pool's threads) is what is wanted.
// Plain JavaScript, because node runs it as it is; so nothing in it has a type.
/* oxlint-disable typescript/no-unsafe-argument, typescript/no-unsafe-assignment, typescript/no-unsafe-call, typescript/no-unsafe-member-access, typescript/no-unsafe-return, unicorn/require-post-message-target-origin */

import { execFileSync } from "node:child_process";
import { constants, mkdtempSync, openSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import { deflateRawSync } from "node:zlib";

const [directory, step, way] = isMainThread ? process.argv.slice(2) : workerData;
const addon = createRequire(import.meta.url)("node-gyp-build")(directory);

const own = mkdtempSync(join(tmpdir(), "erofsd-teardown-"));
const fifoPath = join(own, "fifo");
execFileSync("mkfifo", [fifoPath]);
const fifo = openSync(fifoPath, constants.O_RDWR | constants.O_NONBLOCK);
const file = openSync(join(own, "file"), "w");
rmSync(own, { recursive: true });

const keep = [];
function watcher() {
  const made = new addon.FdWatcher(fifo, () => undefined);
  keep.push(made);
  return made;
}
function pool(threads = 4) {
  const made = new addon.WriterPool(threads, 1024, () => undefined);
  keep.push(made);
  return made;
}
function startedPool(threads) {
  const made = pool(threads);
  if (made.start() !== 0) throw new Error("no threads");
  return made;
}
function queueWrites(target, count) {
  for (let i = 0; i < count; i += 1) {
    // A buffer for each job, so that some are made after the pool and after other jobs.
    const bytes = addon.allocateAligned(1 << 20, i % 2 === 0);
    target.pwrite(file, bytes, 0, bytes.length, (i % 16) << 20, 4096);
  }
}

function startedDecoders(threads) {
  const made = new addon.DecoderPool(threads, 1024, () => undefined);
  keep.push(made);
  if (made.start() !== 0) throw new Error("no threads");
  return made;
}
function queueDecodes(decoders, count) {
  const length = 4 << 20;
  const source = deflateRawSync(Buffer.alloc(length, "some text to decode, "));
  for (let i = 0; i < count; i += 1) {
    // Straight into the target, and by way of the thread's scratch memory.
    const pieces = i % 2 === 0 ? [0, length, 0] : [0, 4096, 0, 4096, 4096, 4096];
    const target = addon.allocateAligned(length, i % 4 < 2);
    const own = Uint8Array.from(source);
    const dictionary = new Uint8Array(i % 3);
    const stored = [own, 0, own.length, length, dictionary, 0, 0];
    decoders.decode(3, ...stored, target, Uint32Array.from(pieces));
  }
}

const steps = {
  "loaded": () => undefined,
  "watcher made": () => watcher(),
  "watcher running": () => watcher().start(),
  "watcher busy": () => {
    addon.write(fifo, Buffer.from("never read"));
    watcher().start();
  },
  "watcher stopped": () => {
    const made = watcher();
    made.start();
    made.stop();
  },
  "watcher closed": () => {
    const made = watcher();
    made.start();
    made.close();
  },
  "pool made": () => pool(),
  "pool idle": () => startedPool(),
  "jobs pending": () => queueWrites(startedPool(1), 64),
  "jobs pending, many threads": () => queueWrites(startedPool(16), 256),
  "destroy pending": () => {
    const made = startedPool(2);
    queueWrites(made, 64);
    made.destroy();
  },
  "decoders idle": () => startedDecoders(2),
  "decodes pending": () => queueDecodes(startedDecoders(1), 16),
  "decodes pending, many threads": () => queueDecodes(startedDecoders(8), 32),
  "destroy of decoders pending": () => {
    const made = startedDecoders(2);
    queueDecodes(made, 16);
    made.destroy();
  },
  "all at once": () => {
    watcher().start();
    watcher();
    pool();
    queueDecodes(startedDecoders(2), 16);
    for (let i = 0; i < 3; i += 1) queueWrites(startedPool(2), 32);
    keep.length = 0;
  },
};

function poolThreads() {
  const names = readdirSync("/proc/self/task").map((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, "utf8").trim();
    } catch {
      return "gone";
    }
  });
  return names.filter((name) => name.startsWith("erofsd-")).length;
}

function run() {
  const walk = steps[step];
  if (walk === undefined) throw new Error(`no step "${step}"`);
  walk();
}

if (!isMainThread) {
  run();
  if (way === "worker-exit") process.exit(0);
  parentPort.postMessage("there");
  // Until it is terminated.
  parentPort.on("message", () => undefined);
} else if (way === "natural") {
  run();
} else if (way === "exit") {
  run();
  process.exit(0);
} else {
  const worker = new Worker(new URL(import.meta.url), { workerData: [directory, step, way] });
  worker.on("message", () => void worker.terminate());
  worker.on("exit", () => console.log(`threads ${poolThreads()}`));
}
