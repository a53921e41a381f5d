// SPDX-License-Identifier: Apache-2.0
// Several processes that read mounted trees without end and compare every byte; what they found.
// Free of test libraries: it also runs in a guest.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import * as z from "zod";
import { findPackageRoot } from "../../../src/platform/package-root.ts";

const PROGRAM = new URL("test/fault/support/reader.py", findPackageRoot()).pathname;

export interface Mounted {
  /** What it was made of. */
  readonly tree: string;
  readonly mounted: string;
}

/** Times are milliseconds since 1970. */
export interface FailedRead {
  readonly errno: string;
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
}

/** Right, but late. Times as in FailedRead. */
export interface SlowRead {
  readonly name: string;
  /** Of the kernel's, one after the other. */
  readonly requests: number;
  readonly startMs: number;
  readonly endMs: number;
}

export interface Findings {
  readonly reads: number;
  readonly bytes: number;
  readonly slowestMs: number;
  readonly failed: readonly FailedRead[];
  readonly slow: readonly SlowRead[];
  /** Wrong bytes, reads beyond their limit, readers that did not end: a line each. */
  readonly wrongs: readonly string[];
}

const failedLine = z.object({
  failed: z.string(),
  name: z.string(),
  start: z.number(),
  end: z.number(),
});
const slowLine = z.object({
  late: z.string(),
  requests: z.int().positive(),
  start: z.number(),
  end: z.number(),
});
const lastLine = z.object({ reads: z.number(), bytes: z.number(), slowest: z.number() });

export class Readers {
  readonly #children: { readonly child: ChildProcess; readonly lines: string[] }[];
  readonly #limitMs: number;

  /** No request may take longer than `limitMs`; a read with one that took longer than `slowMs` is told. */
  constructor(given: {
    count: number;
    seed: number;
    slowMs?: number;
    limitMs: number;
    of: readonly Mounted[];
  }) {
    const { count, seed, limitMs, slowMs = limitMs, of } = given;
    this.#limitMs = limitMs;
    const pairs = of.flatMap(({ tree, mounted }) => [tree, mounted]);
    this.#children = Array.from({ length: count }, (_, at) => {
      const limits = [slowMs, limitMs].map((ms) => String(ms / 1000));
      const args = [PROGRAM, String(seed + at), ...limits, ...pairs];
      const child = spawn("python3", args, { stdio: ["pipe", "pipe", "inherit"] });
      const lines: string[] = [];
      createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
      return { child, lines };
    });
  }

  /** One has found what must not be. */
  get haveEnded(): boolean {
    return this.#children.some(({ child }) => child.exitCode !== null);
  }

  async stop(): Promise<Findings> {
    const wrongs: string[] = [];
    for (const { child } of this.#children) child.stdin?.end();
    for (const { child } of this.#children) {
      if (child.exitCode !== null) continue;
      const signal = AbortSignal.timeout(this.#limitMs + 5000);
      await once(child, "close", { signal }).catch(async () => {
        const stack = await readFile(`/proc/${child.pid}/stack`, "utf8").catch(String);
        wrongs.push(`a reader hangs: ${stack}`);
        child.kill("SIGKILL");
      });
    }
    const sum = { reads: 0, bytes: 0, slowestMs: 0 };
    const failed: FailedRead[] = [];
    const slow: SlowRead[] = [];
    for (const { child, lines } of this.#children) {
      for (const line of lines) {
        const said: unknown = JSON.parse(line);
        const failure = failedLine.safeParse(said).data;
        const late = slowLine.safeParse(said).data;
        const last = lastLine.safeParse(said).data;
        if (failure !== undefined) {
          const { failed: errno, name, start, end } = failure;
          failed.push({ errno, name, startMs: start * 1000, endMs: end * 1000 });
        } else if (late !== undefined) {
          const { late: name, requests, start, end } = late;
          slow.push({ name, requests, startMs: start * 1000, endMs: end * 1000 });
        } else if (last === undefined) {
          wrongs.push(line);
        } else {
          sum.reads += last.reads;
          sum.bytes += last.bytes;
          sum.slowestMs = Math.max(sum.slowestMs, Math.round(last.slowest * 1000));
        }
      }
      if (child.exitCode !== 0) wrongs.push(`a reader ended with ${child.exitCode}`);
    }
    return { ...sum, failed, slow, wrongs };
  }
}
