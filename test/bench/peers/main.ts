// SPDX-License-Identifier: Apache-2.0
// Through the kernel in a guest, beside nydusd, by hand: EROFSD_PEERS is a folder with nydusd,
// nydus-image, nydusify and slowreg (an OCI registry over a layout behind one emulated link).

import { access, mkdtemp, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { capture } from "../programs.ts";
import type { Line, Report } from "../report.ts";
import { preparePeerImage } from "./image.ts";
import {
  type Measured,
  ROUND_TRIP_MS,
  WORKLOADS,
  type Workload,
  measuredList,
} from "./measured.ts";

const PROGRAMS = ["nydusd", "nydus-image", "nydusify", "slowreg"];
const GUEST = fileURLToPath(new URL("guest.js", import.meta.url));
const LIMIT_SECONDS = 1200;

/** Of ours divided by nydusd's. */
const RATIOS: Readonly<Partial<Record<Workload, number>>> = {
  sequential: 0.45,
  start: 0.6,
  random: 0.8,
};
const PREFETCHED_RATIO = 1.15;

export async function benchPeers(
  report: Report,
  home: string,
  of: { kernel: string; only: readonly string[] },
): Promise<void> {
  const { kernel } = of;
  const workloads = WORKLOADS.filter((name) => of.only.length === 0 || of.only.includes(name));
  const peers = process.env["EROFSD_PEERS"] ?? "";
  for (const program of PROGRAMS) {
    await access(join(peers, program)).catch((cause: unknown) => {
      throw new Error(`EROFSD_PEERS must name a folder with ${PROGRAMS.join(", ")}`, { cause });
    });
  }
  report.heading(`beside nydusd, ${kernel}, 20 ms, 20 MB/s`);
  const layout = await preparePeerImage(home, peers);
  // Not in the system's temp dir, which the guest does not see.
  const out = await mkdtemp(join(home, "out-"));
  const run = join(fileURLToPath(findPackageRoot()), "scripts/guest/run");
  const guest = [run, "--kernel", kernel, "--limit", String(LIMIT_SECONDS), "--out", out, "--"];
  await capture([...guest, process.execPath, GUEST, peers, layout, ...workloads], (line) => {
    console.log(`  ${line}`);
  });
  const results = measuredList.parse(JSON.parse(await readFile(join(out, "results.json"), "utf8")));
  for (const line of linesOf(results, workloads)) report.add(line);
  await rm(out, { recursive: true });
}

function linesOf(results: readonly Measured[], workloads: readonly Workload[]): Line[] {
  const find = (workload: Measured["workload"], daemon: Measured["daemon"]): Measured => {
    const found = results.find((one) => one.workload === workload && one.daemon === daemon);
    if (found === undefined) throw new Error(`the guest did not measure ${workload}, ${daemon}`);
    return found;
  };
  const lines = workloads.map((workload) =>
    besideNydusd(workload, find(workload, "ours"), find(workload, "nydusd")),
  );
  const has = (...names: Workload[]): boolean => names.every((name) => workloads.includes(name));
  const download = find("download", "curl");
  return [
    ...lines,
    ...(has("start", "prefetched start")
      ? [besideOff(find("prefetched start", "ours"), find("start", "ours"))]
      : []),
    ...(has("first 4 KiB") ? [firstBlock(find("first 4 KiB", "ours"))] : []),
    {
      part: "peers",
      name: "plain download of the blob",
      value: download.seconds,
      unit: "s",
      details: download.details,
    },
  ];
}

function besideNydusd(workload: Workload, ours: Measured, theirs: Measured): Line {
  const goal = RATIOS[workload];
  const details: Record<string, number> = { ...ours.details };
  for (const [key, number] of Object.entries(theirs.details)) details[`nydusd: ${key}`] = number;
  return {
    part: "peers",
    name: workload,
    value: ours.seconds,
    unit: "s",
    reference: { name: "nydusd", value: theirs.seconds },
    ...(goal === undefined ? {} : { goal: { kind: "at most", value: goal } }),
    details,
  };
}

function besideOff(prefetched: Measured, off: Measured): Line {
  return {
    part: "peers",
    name: "start, prefetch on beside off",
    value: prefetched.seconds,
    unit: "s",
    reference: { name: "off", value: off.seconds },
    goal: { kind: "at most", value: PREFETCHED_RATIO },
  };
}

function firstBlock(ours: Measured): Line {
  return {
    part: "peers",
    name: "first 4 KiB after the mount",
    value: ours.seconds * 1000,
    unit: "ms",
    goal: { kind: "at most", value: ROUND_TRIP_MS + 30 },
  };
}
