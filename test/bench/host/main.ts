// SPDX-License-Identifier: Apache-2.0
// The engine on this machine, without a kernel: each workload beside what plain tools get through
// the same link in the same run.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig } from "../../../src/config/config.ts";
import { MIB } from "../../../src/units.ts";
import type { Report } from "../report.ts";
import { HostBench, type MeasuredOutcome, median, percentile, repeat } from "./bench.ts";
import { curl, curlAgain, curlIntoFile } from "./download.ts";
import type { BenchImage } from "./images.ts";
import { traced } from "./traced.ts";
import { neededBytes } from "./start-trace.ts";

const MB = 1e6;
const RUNS = 3;
const PART = "host";

/** Further away than a city, on a good line. */
const WIDE = { roundTripMs: 20, bandwidth: 100 * MB };
const NARROW = { roundTripMs: 20, bandwidth: 10 * MB };

const WORKLOADS: Readonly<Record<string, (bench: HostBench) => Promise<void>>> = {
  sequential,
  random,
  readers,
  files,
  start,
  traced,
  prefetch,
  loopback,
  lossy,
};

/** `only`: names of workloads, all when empty. */
export async function benchHost(
  report: Report,
  home: string,
  only: readonly string[],
): Promise<void> {
  for (const name of only) {
    if (WORKLOADS[name] === undefined) {
      throw new Error(`no workload "${name}": there are ${Object.keys(WORKLOADS).join(", ")}`);
    }
  }
  const bench = await HostBench.start(report, home);
  try {
    for (const [name, run] of Object.entries(WORKLOADS)) {
      if (only.length === 0 || only.includes(name)) await run(bench);
    }
    const bytesMax = parseConfig("", "defaults").limits.bytes_in_flight + 150 * MB;
    report.heading("memory");
    report.add({
      part: PART,
      name: `most of any process (${bench.peakRss.of})`,
      value: bench.peakRss.bytes / MIB,
      unit: "MiB",
      goal: { kind: "at most", value: bytesMax / MIB },
    });
  } finally {
    await bench.stop();
  }
}

/** Says what plain downloads get, and returns the rate of one in bytes a second. */
async function calibrate(bench: HostBench, image: BenchImage, bytes?: number): Promise<number> {
  const download = bench.download(image, bytes);
  const rate = (ms: number): number => download.bytes / ms / 1000;
  const of = async (measure: () => Promise<number>): Promise<number> =>
    median(await repeat(RUNS, measure));
  const one = await of(() => curl(download));
  const { chunkBytes } = image;
  const chunk = Math.round(image.storedBytes / (image.sizeBytes / (chunkBytes ?? MIB)));
  bench.report.add({
    part: PART,
    name: `plain download, ${(download.bytes / MB).toFixed(1)} MB`,
    value: rate(one),
    unit: "MB/s",
    details: {
      "MB/s by 4 connections": rate(await of(() => curl(download, 4))),
      "ms for 1 byte, new connection": await of(() => curl({ ...download, bytes: 1 })),
      "open connection": await of(() => curlAgain(download, 1)),
      [`ms for ${chunkBytes === undefined ? "1 MiB" : "a chunk"}, open connection`]: await of(() =>
        curlAgain(download, chunk),
      ),
    },
  });
  return rate(one) * MB;
}

async function sequential(bench: HostBench): Promise<void> {
  for (const name of ["raw-64", "rafs-64"] as const) {
    const image = bench.images[name];
    bench.report.heading(`sequential, ${name}, 20 ms, 100 MB/s`);
    await bench.shape(WIDE);
    const plain = await calibrate(bench, image);
    const runs = await repeat(RUNS, () => bench.run(image, { kind: "sequential", readers: 1 }));
    addRate(bench, { name: "one reader from start to end", image, runs, plain, goal: 0.9 });
  }
}

interface Rated {
  readonly name: string;
  readonly image: BenchImage;
  readonly runs: readonly MeasuredOutcome[];
  readonly plain: number;
  readonly goal?: number;
}

/** Stored bytes a second, of the run in the middle. */
function addRate(bench: HostBench, { name, image, runs, plain, goal }: Rated): void {
  const ms = median(runs.map((run) => run.ms));
  const run = runs.find((one) => one.ms === ms);
  bench.report.add({
    part: PART,
    name: `${name}, ${image.name}`,
    value: image.storedBytes / ms / 1000,
    unit: "MB/s",
    reference: { name: "plain download", value: plain / MB },
    ...(goal === undefined ? {} : { goal: { kind: "at least", value: goal } }),
    details: run === undefined ? {} : detailsOf(run, image.storedBytes),
  });
}

function detailsOf(run: MeasuredOutcome, storedBytes: number): Record<string, number> {
  return {
    READs: run.reads,
    "ms mount": run.mountMs,
    "CPU s/GB stored": run.cpuMs / 1000 / (storedBytes / 1e9),
    "MiB peak": run.peakRssBytes / MIB,
    "bytes carried / stored": run.linkBytes / storedBytes,
  };
}

function chunkMs(image: BenchImage, bandwidth: number): number {
  const chunks = image.sizeBytes / (image.chunkBytes ?? 4096);
  return (image.storedBytes / chunks / bandwidth) * 1000;
}

async function random(bench: HostBench): Promise<void> {
  const image = bench.images["rafs-256-fine"];
  bench.report.heading("random 4 KiB, 256 KiB chunks, 20 ms, 10 MB/s");
  await bench.shape(NARROW);
  const download = bench.download(image, 8 * MB);
  await calibrate(bench, image, download.bytes);
  // The link's own round trip and what the registry needs to begin.
  const roundTripMs = median(await repeat(RUNS, () => curlAgain(download, 1)));
  const outcome = await bench.run(image, {
    kind: "random",
    count: 200,
    thinkMs: 0,
    prefetch: false,
  });
  const goal = roundTripMs + chunkMs(image, NARROW.bandwidth) + 5;
  bench.report.add({
    part: PART,
    name: "time to answer, median",
    value: median(outcome.missMs),
    unit: "ms",
    goal: { kind: "at most", value: goal },
    details: { ...latencies(outcome), "ms round trip, measured": roundTripMs },
  });
}

function latencies(outcome: MeasuredOutcome): Record<string, number> {
  return {
    p90: percentile(outcome.missMs, 0.9),
    p99: percentile(outcome.missMs, 0.99),
    misses: outcome.missMs.length,
    hits: outcome.hits,
    "MB carried": outcome.linkBytes / MB,
    "MiB peak": outcome.peakRssBytes / MIB,
  };
}

async function readers(bench: HostBench): Promise<void> {
  const image = bench.images["rafs-64"];
  bench.report.heading("16 readers at once, 20 ms, 100 MB/s");
  await bench.shape(WIDE);
  const plain = await calibrate(bench, image);
  const runs = await repeat(RUNS, () => bench.run(image, { kind: "sequential", readers: 16 }));
  addRate(bench, { name: "all of them", image, runs, plain });
  const shares = runs.map(({ readerMs }) => {
    const mean = readerMs.reduce((sum, ms) => sum + ms, 0) / readerMs.length;
    return { slowest: Math.max(...readerMs), mean };
  });
  const worst = shares.reduce((a, b) => (a.slowest / a.mean > b.slowest / b.mean ? a : b));
  bench.report.add({
    part: PART,
    name: "the slowest, worst of three runs",
    value: worst.slowest,
    unit: "ms",
    reference: { name: "mean", value: worst.mean },
    goal: { kind: "at most", value: 1.3 },
  });
}

async function files(bench: HostBench): Promise<void> {
  const image = bench.images["raw-small"];
  bench.report.heading("1,000 small files, 20 ms, 100 MB/s");
  await bench.shape(WIDE);
  const plain = await calibrate(bench, image);
  const runs = await repeat(RUNS, () => bench.run(image, { kind: "files" }));
  addRate(bench, { name: "every file", image, runs, plain });
}

async function start(bench: HostBench): Promise<void> {
  for (const name of ["raw-start", "rafs-start"] as const) {
    const image = bench.images[name];
    bench.report.heading(`the start of a Python program, ${name}, 20 ms, 100 MB/s`);
    await bench.shape(WIDE);
    const plain = await calibrate(bench, image);
    const runs = await repeat(RUNS, () => bench.run(image, { kind: "start", how: "cold" }));
    const ms = median(runs.map((run) => run.ms));
    const run = runs.find((one) => one.ms === ms);
    const needed = neededBytes(image);
    bench.report.add({
      part: PART,
      name: `all its reads, without its pauses, ${image.name}`,
      value: ms,
      unit: "ms",
      reference: { name: "to download as much", value: (needed / plain) * 1000 },
      details: {
        ...(run === undefined ? {} : detailsOf(run, needed)),
        "MB needed": needed / MB,
      },
    });
  }
}

async function prefetch(bench: HostBench): Promise<void> {
  const image = bench.images["rafs-256-fine"];
  bench.report.heading("a random reader beside a prefetch of the whole image, 20 ms, 10 MB/s");
  await bench.shape(NARROW);
  const workload = { kind: "random", count: 150, thinkMs: 200 } as const;
  const alone = await bench.run(image, { ...workload, prefetch: false });
  const beside = await bench.run(image, { ...workload, prefetch: true });
  const p99 = percentile(alone.missMs, 0.99);
  bench.report.add({
    part: PART,
    name: "p99 alone",
    value: p99,
    unit: "ms",
    details: latencies(alone),
  });
  bench.report.add({
    part: PART,
    name: "p99 beside the prefetch",
    value: percentile(beside.missMs, 0.99),
    unit: "ms",
    goal: { kind: "at most", value: 1.5 * p99 + chunkMs(image, NARROW.bandwidth) },
    details: latencies(beside),
  });
}

async function loopback(bench: HostBench): Promise<void> {
  const image = bench.images["rafs-1024"];
  bench.report.heading("loopback, no link: verified zstd chunks");
  const download = bench.download(image, image.storedBytes, true);
  const scratch = await mkdtemp(join(tmpdir(), "erofsd-bench-"));
  try {
    const plainMs = median(await repeat(RUNS, () => curlIntoFile(download, join(scratch, "file"))));
    const runs = await repeat(RUNS, () =>
      bench.run(image, { kind: "sequential", readers: 1 }, { isDirect: true }),
    );
    const ms = median(runs.map((run) => run.ms));
    const run = runs.find((one) => one.ms === ms);
    bench.report.add({
      part: PART,
      name: "stored bytes, one reader from start to end",
      value: download.bytes / ms / 1000,
      unit: "MB/s",
      reference: { name: "curl | dd", value: download.bytes / plainMs / 1000 },
      goal: { kind: "at least", value: 0.7 },
      details: {
        "MB/s decoded": image.sizeBytes / ms / 1000,
        "CPU s/GB stored": (run?.cpuMs ?? 0) / 1000 / (image.storedBytes / 1e9),
        "MiB peak": (run?.peakRssBytes ?? 0) / MIB,
      },
    });
  } finally {
    await rm(scratch, { recursive: true });
  }
  const count = 50_000;
  const cached = await bench.run(image, { kind: "cached", count }, { isDirect: true });
  bench.report.add({
    part: PART,
    name: "READs of cached extents answered",
    value: (count / cached.ms) * 1000,
    unit: "/s",
    goal: { kind: "at least", value: 5000 },
  });
}

async function lossy(bench: HostBench): Promise<void> {
  const image = bench.images["rafs-64"];
  bench.report.heading("sequential, 20 ms, 100 MB/s, one 16 KiB piece in 500 lost");
  await bench.shape({ ...WIDE, loss: 0.002 });
  const plain = await calibrate(bench, image);
  const runs = await repeat(RUNS, () => bench.run(image, { kind: "sequential", readers: 1 }));
  addRate(bench, { name: "one reader from start to end", image, runs, plain });
  bench.report.heading("sequential, 20 ms, 100 MB/s, 25 MB/s a connection");
  await bench.shape({ ...WIDE, connectionBandwidth: 25 * MB });
  const slow = await calibrate(bench, image);
  const slowRuns = await repeat(RUNS, () => bench.run(image, { kind: "sequential", readers: 1 }));
  addRate(bench, { name: "one reader from start to end", image, runs: slowRuns, plain: slow });
}
