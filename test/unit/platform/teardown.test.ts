// SPDX-License-Identifier: Apache-2.0
// The teardown matrix: a process, or a worker thread, ends at each step of the addon's life;
// it must end by itself, with status 0, without a signal, and without a thread left behind.

import { spawn, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { nativeDirectory } from "./addon.ts";

const child = fileURLToPath(new URL("teardown-child.mjs", import.meta.url));

const STEPS = [
  "loaded",
  "watcher made",
  "watcher running",
  "watcher busy",
  "watcher stopped",
  "watcher closed",
  "pool made",
  "pool idle",
  "jobs pending",
  "jobs pending, many threads",
  "destroy pending",
  "decoders idle",
  "decodes pending",
  "decodes pending, many threads",
  "destroy of decoders pending",
  "all at once",
];
/** A running watcher keeps the process alive, as it should: the daemon waits on its device. */
const STAYS = new Set(["watcher running", "watcher busy", "all at once"]);

interface End {
  readonly status: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

function endAt(step: string, way: string): Promise<End> {
  return new Promise((resolve, reject) => {
    const running = spawn(process.execPath, [child, nativeDirectory, step, way]);
    let stdout = "";
    let stderr = "";
    running.stdout.on("data", (piece: Buffer) => {
      stdout += piece.toString();
    });
    running.stderr.on("data", (piece: Buffer) => {
      stderr += piece.toString();
    });
    running.on("error", reject);
    running.on("close", (status, signal) => {
      resolve({ status, signal, stdout, stderr });
    });
  });
}

describe("the main thread ends cleanly", () => {
  test.each(STEPS.filter((step) => !STAYS.has(step)))("by itself: %s", async (step) => {
    const end = await endAt(step, "natural");
    expect(end).toEqual({ status: 0, signal: null, stdout: "", stderr: "" });
  });

  test.each(STEPS)("by process.exit: %s", async (step) => {
    const end = await endAt(step, "exit");
    expect(end).toEqual({ status: 0, signal: null, stdout: "", stderr: "" });
  });
});

describe("a worker thread ends cleanly and leaves no thread", () => {
  test.each(STEPS)("by process.exit in it: %s", async (step) => {
    const end = await endAt(step, "worker-exit");
    expect(end).toEqual({ status: 0, signal: null, stdout: "threads 0\n", stderr: "" });
  });

  test.each(STEPS)("by terminate(): %s", async (step) => {
    const end = await endAt(step, "worker-terminate");
    expect(end).toEqual({ status: 0, signal: null, stdout: "threads 0\n", stderr: "" });
  });
});

describe("an exception in a callback of the addon", () => {
  const script = (after: string): string => `
    const addon = require("node-gyp-build")(process.argv[1]);
    const pool = new addon.WriterPool(1, 1, () => {
      process.nextTick(() => console.log("tick"));
      throw new Error("from onDone");
    });
    pool.start();
    ${after}
    pool.seek(0, 0, 0);`;
  const run = (after: string) =>
    spawnSync(process.execPath, ["-e", script(after), nativeDirectory], { encoding: "utf8" });

  test("is an uncaughtException, and ticks run in the callback's scope", () => {
    const { status, stdout } = run(
      `process.on("uncaughtException", (error) => console.log(error.message));`,
    );
    expect({ status, stdout }).toEqual({ status: 0, stdout: "from onDone\ntick\n" });
  });

  test("ends the process when nobody handles it", () => {
    const { status, signal, stderr } = run("");
    expect({ status, signal }).toEqual({ status: 1, signal: null });
    expect(stderr).toContain("from onDone");
  });
});
