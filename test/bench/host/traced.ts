// SPDX-License-Identifier: Apache-2.0
// The start of a recorded program from nothing, with its trace replayed: beside the same without
// it, and beside the time that its bytes alone take with the time that it takes when all is cached.

import { type HostBench, type MeasuredOutcome, median, repeat } from "./bench.ts";
import { curl } from "./download.ts";
import { neededBytes } from "./start-trace.ts";

const MB = 1e6;
const RUNS = 3;
const LINK = { roundTripMs: 20, bandwidth: 50 * MB };
const GOAL = 1.2;

export async function traced(bench: HostBench): Promise<void> {
  for (const name of ["raw-start", "rafs-start"] as const) {
    const image = bench.images[name];
    bench.report.heading(`the start of a Python program with its trace, ${name}, 20 ms, 50 MB/s`);
    await bench.shape(LINK);
    const needed = Math.round(neededBytes(image));
    const msOf = (runs: readonly MeasuredOutcome[]): number => median(runs.map(({ ms }) => ms));
    const run = (how: "cold" | "traced" | "warm") =>
      repeat(RUNS, () => bench.run(image, { kind: "start", how }));
    const streamMs = median(await repeat(RUNS, () => curl(bench.download(image, needed))));
    const warmMs = msOf(await run("warm"));
    const coldMs = msOf(await run("cold"));
    const runs = await run("traced");
    const ms = msOf(runs);
    const carried = runs.find((one) => one.ms === ms)?.linkBytes ?? 0;
    bench.report.add({
      part: "host",
      name: `all its reads, without its pauses, ${image.name}`,
      value: ms,
      unit: "ms",
      reference: { name: "its bytes streamed, and its warm run", value: streamMs + warmMs },
      goal: { kind: "at most", value: GOAL },
      details: {
        "ms to stream its bytes": streamMs,
        "ms warm": warmMs,
        "bytes carried / needed": carried / needed,
      },
    });
    bench.report.add({
      part: "host",
      name: `the same beside none, ${image.name}`,
      value: ms,
      unit: "ms",
      reference: { name: "without its trace", value: coldMs },
      goal: { kind: "at most", value: 1 },
    });
  }
}
