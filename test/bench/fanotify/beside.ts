// SPDX-License-Identifier: Apache-2.0
// Each workload by nydus v3 and by us, in turns, each with an empty cache and nothing in memory.

import { execFile } from "node:child_process";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as z from "zod";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { freePort } from "../../support/port.ts";
import { median } from "../host/bench.ts";
import { BIG_FILE, SMALL_FILE } from "../peers/image.ts";
import type { Report } from "../report.ts";
import { type PeerMount, PeerSite, peakMib } from "./peer.ts";
import { dropCaches, timed } from "./site.ts";

const exec = promisify(execFile);
const READER = fileURLToPath(new URL("test/bench/peers/reader.py", findPackageRoot()));
const PROGRAMS = ["nydus3", "slowreg", "nydusify", "nydus-image"];
const ROUNDS = 3;

interface Workload {
  readonly name: string;
  /** Of ours divided by theirs, at most. */
  readonly goal: number;
  /** Milliseconds. */
  run(target: string): Promise<number>;
}

const WORKLOADS: readonly Workload[] = [
  {
    name: "first 4 KiB",
    goal: 0.8,
    run: async (target) => (await blocks(join(target, SMALL_FILE), "few"))[0] ?? Number.NaN,
  },
  {
    name: "sequential",
    goal: 0.5,
    run: (target) => timed("cat", [join(target, BIG_FILE)]),
  },
  {
    name: "start of a Python program",
    goal: 0.8,
    run: (target) => timed("chroot", [target, "/usr/bin/python3", "/opt/start.py"]),
  },
  {
    name: "300 random reads",
    goal: 0.8,
    run: async (target) =>
      (await blocks(join(target, BIG_FILE), "random")).reduce((sum, ms) => sum + ms, 0),
  },
  {
    name: "tar",
    goal: 0.7,
    run: (target) => timed("sh", ["-c", `tar -C ${target} -cf - usr/lib | cat > /dev/null`]),
  },
];

interface Taken {
  readonly ms: number[];
  readonly mb: number[];
}

export async function benchBeside(report: Report, home: string): Promise<void> {
  const peers = process.env["EROFSD_PEERS"];
  if (peers === undefined) {
    console.log("\nbeside nydus v3: not measured, EROFSD_PEERS names no folder with it");
    return;
  }
  for (const program of PROGRAMS) await access(join(peers, program));
  report.heading("beside nydus v3, 20 ms, 100 MB/s");
  const site = await PeerSite.start(home, peers, await freePort());
  const memory = { ours: 0, theirs: 0 };
  const mounts: Record<"ours" | "theirs", number[]> = { ours: [], theirs: [] };
  try {
    for (const workload of WORKLOADS) {
      const taken = { ours: nothing(), theirs: nothing() };
      for (let round = 0; round < ROUNDS; round += 1) {
        for (const who of ["theirs", "ours"] as const) {
          const mounted = await (who === "ours" ? site.ours() : site.theirs());
          await measure(site, { mounted, workload, into: taken[who] });
          memory[who] = Math.max(memory[who], await peakMib(mounted.pid));
          mounts[who].push(mounted.mountMs);
          await mounted.stop();
        }
      }
      add(report, workload, taken);
    }
  } finally {
    await site.stop();
  }
  addLine(report, { name: "memory at its highest", unit: "MiB", goal: 1, ...memory });
  const [ours, theirs] = [median(mounts.ours), median(mounts.theirs)];
  addLine(report, { name: "mount", unit: "ms", goal: undefined, ours, theirs });
}

async function measure(
  site: PeerSite,
  of: { mounted: PeerMount; workload: Workload; into: Taken },
): Promise<void> {
  await dropCaches();
  await site.forgetCarried();
  of.into.ms.push(await of.workload.run(of.mounted.target));
  of.into.mb.push(await site.carriedMb());
}

function nothing(): Taken {
  return { ms: [], mb: [] };
}

function add(report: Report, { name, goal }: Workload, of: { ours: Taken; theirs: Taken }): void {
  const details = { "MB carried": median(of.ours.mb), "nydus v3: MB": median(of.theirs.mb) };
  const [ours, theirs] = [median(of.ours.ms), median(of.theirs.ms)];
  addLine(report, { name, unit: "ms", goal, ours, theirs, details });
}

function addLine(
  report: Report,
  of: {
    readonly name: string;
    readonly unit: string;
    readonly goal: number | undefined;
    readonly ours: number;
    readonly theirs: number;
    readonly details?: Readonly<Record<string, number>>;
  },
): void {
  const { name, unit, goal, ours, theirs, details = {} } = of;
  report.add({
    part: "fanotify",
    name,
    value: ours,
    unit,
    reference: { name: "nydus v3", value: theirs },
    ...(goal === undefined ? {} : { goal: { kind: "at most", value: goal } }),
    details,
  });
}

/** Milliseconds of each read. */
async function blocks(path: string, how: "few" | "random"): Promise<number[]> {
  const { stdout } = await exec("/usr/bin/python3", [READER, path, how]);
  return z.array(z.number()).parse(JSON.parse(stdout));
}
