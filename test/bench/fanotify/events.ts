// SPDX-License-Identifier: Apache-2.0
// What an access to what is cached of a marked file costs, beside a C program that only allows; in
// turns, since both wait for the same processors. events.c reads and allows.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { MIB } from "../../../src/units.ts";
import { median } from "../host/bench.ts";
import type { Report } from "../report.ts";
import { BIG_FILE, type BenchSite, timed } from "./site.ts";

const exec = promisify(execFile);
const SOURCE = join(new URL(findPackageRoot()).pathname, "test/bench/fanotify/events.c");
const ROUNDS = 5;
const READS = 5_000;
const READERS = 4;
/** Of the stream, all cached. */
const RANGE = { from: 8 * MIB, bytes: 16 * MIB };

export async function benchEvents(report: Report, site: BenchSite): Promise<void> {
  report.heading("accesses to what is cached of a file that is still marked");
  const program = join(site.scratch, "events");
  await exec("cc", ["-O2", "-Wall", "-o", program, SOURCE]);
  const mounted = await site.mountFresh();
  const big = join(mounted.target, BIG_FILE);
  await timed("dd", [`if=${big}`, "of=/dev/null", "bs=1M", "count=32", "status=none"]);
  const [file = ""] = await mounted.cacheFiles();
  const allower = spawn(program, ["allow", site.image], { stdio: ["ignore", "pipe", "inherit"] });
  await once(allower.stdout, "data");
  const read = (path: string): Promise<number[]> => readBlocks(program, path);
  const [ours, theirs]: [number[], number[]] = [[], []];
  // Compiled code is what is measured, not its compilation.
  for (let round = 0; round < 3; round += 1) await read(file);
  for (let round = 0; round < ROUNDS; round += 1) {
    ours.push(median(await read(file)));
    theirs.push(median(await read(site.image)));
  }
  const details = { "us, ours": median(ours), "us, allowing": median(theirs) };
  const more = median(ours.map((us, at) => us - (theirs[at] ?? 0)));
  const goal = { kind: "at most", value: 60 } as const;
  report.add({
    part: "fanotify",
    name: "more than allowing",
    value: more,
    unit: "us",
    goal,
    details,
  });
  const rates = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = await cpuMs(mounted.daemon.pid);
    const startMs = performance.now();
    await Promise.all(Array.from({ length: READERS }, () => read(file)));
    const wall = (READERS * READS) / (performance.now() - startMs);
    const cpu = (READERS * READS) / ((await cpuMs(mounted.daemon.pid)) - before);
    rates.push({ cpu: cpu * 1000, wall: wall * 1000 });
  }
  allower.kill();
  await mounted.stop();
  report.add({
    part: "fanotify",
    name: "events a second of processor time",
    value: median(rates.map(({ cpu }) => cpu)),
    unit: "events",
    goal: { kind: "at least", value: 15_000 },
    details: { "a second, 4 readers": median(rates.map(({ wall }) => wall)) },
  });
}

/** Microseconds of each. */
async function readBlocks(program: string, path: string): Promise<number[]> {
  const { from, bytes } = RANGE;
  const args = ["read", path, String(from), String(bytes), String(READS)];
  const { stdout } = await exec(program, args, { maxBuffer: 16 * MIB });
  return stdout.trimEnd().split("\n").map(Number);
}

/** Of all its threads, user and system (proc(5), "stat", fields 14 and 15, in hundredths). */
async function cpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return 10 * (Number(fields[11]) + Number(fields[12]));
}
