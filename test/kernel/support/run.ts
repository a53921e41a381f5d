// SPDX-License-Identifier: Apache-2.0
// Running programs in the guest. Nothing here blocks this process: it may be the registry too.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { strictEqual } from "node:assert/strict";
import { PROGRAM } from "./settings.ts";

export interface Ended {
  /** undefined when a signal ended it. */
  readonly status: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
  readonly ms: number;
}

/** Runs to the end, whatever its status. */
export async function run(command: string, args: readonly string[]): Promise<Ended> {
  const startMs = performance.now();
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  const out = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      out[name] += text;
    });
  }
  await once(child, "close");
  const ms = performance.now() - startMs;
  return { status: child.exitCode ?? undefined, ...out, ms };
}

/** Runs to the end; rejects with its output unless its status is 0. */
export async function must(command: string, args: readonly string[]): Promise<Ended> {
  const ended = await run(command, args);
  const shown = `${command} ${args.join(" ")}\n${ended.stdout.slice(0, 2000)}${ended.stderr.slice(0, 2000)}`;
  strictEqual(ended.status, 0, shown);
  return ended;
}

/** The `erofsd` command line. */
export function erofsd(...args: readonly string[]): Promise<Ended> {
  return run(process.execPath, [PROGRAM, ...args]);
}

/** Every file, link and directory is the same, byte for byte. */
export async function expectSameTree(expected: string, actual: string): Promise<void> {
  await must("diff", ["-r", "--no-dereference", expected, actual]);
}

export async function expectSameFile(expected: string, actual: string): Promise<void> {
  await must("cmp", [expected, actual]);
}

/** Page cache, dentries and inodes are forgotten: reads go to the cache file again. */
export async function dropCaches(): Promise<void> {
  await must("sh", ["-c", "echo 3 > /proc/sys/vm/drop_caches"]);
}
