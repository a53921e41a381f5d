// SPDX-License-Identifier: Apache-2.0
// Peers, seed, scheduler and origin killed in turn while readers read on.

import { DaemonError } from "../../../src/errors.ts";
import { type Extent, MIB } from "../../../src/units.ts";
import type { Network } from "./network.ts";
import type { BenchOrigin, OriginBlob } from "./origin.ts";
import { type Program, pause } from "./program.ts";
import type { BenchNode } from "./reader.ts";

const DEADLINE_MS = 10_000;
/** What the machine may be late with a timer. */
const LATENESS_MS = 250;
const BEFORE_MS = 1_000;
const DEAD_MS = 2_500;
const AFTER_MS = 1_500;

export interface KillsResult {
  reads: number;
  wrong: number;
  overDeadline: number;
  /** Reads that failed in time, by fault. */
  readonly failed: Map<string, number>;
  longestMs: number;
}

export async function readThroughKills(
  node: BenchNode,
  blob: OriginBlob,
  { network, origin }: { network: Network; origin: BenchOrigin },
): Promise<KillsResult> {
  const result: KillsResult = {
    reads: 0,
    wrong: 0,
    overDeadline: 0,
    failed: new Map(),
    longestMs: 0,
  };
  const stop = { now: false };
  const readers = [
    keepReading(node, blob, "demand", result, stop),
    keepReading(node, blob, "demand", result, stop),
    keepReading(node, blob, "ahead", result, stop),
  ];
  const [own, other] = network.peers;
  const victims: (readonly [string, Program | undefined])[] = [
    ["other peer", other?.program],
    ["seed", network.seed.program],
    ["scheduler", network.scheduler],
    ["origin", origin.program],
    ["own peer", own?.program],
  ];
  const restarts: Promise<void>[] = [];
  for (const [name, victim] of victims) {
    await pause(BEFORE_MS);
    console.log(`  killing: ${name}`);
    await victim?.kill();
    await pause(DEAD_MS);
    const restart = victim?.restart() ?? Promise.resolve();
    // The origin is back before the next one goes: two at once are more than is promised.
    if (victim === origin.program) await restart;
    else restarts.push(restart);
    await pause(AFTER_MS);
  }
  await Promise.all(restarts);
  await pause(AFTER_MS);
  stop.now = true;
  await Promise.all(readers);
  return result;
}

async function keepReading(
  node: BenchNode,
  blob: OriginBlob,
  urgency: "demand" | "ahead",
  result: KillsResult,
  stop: { readonly now: boolean },
): Promise<void> {
  let next = 0;
  while (!stop.now) {
    const extent = urgency === "demand" ? randomExtent(blob) : { offset: next, length: 4 * MIB };
    next = (next + extent.length) % blob.location.size;
    const startMs = performance.now();
    try {
      const { isRight } = await node.read(blob, extent, urgency);
      if (!isRight) result.wrong += 1;
    } catch (error) {
      if (!(error instanceof DaemonError)) throw error;
      const { code } = error.fault;
      result.failed.set(code, (result.failed.get(code) ?? 0) + 1);
    }
    const tookMs = performance.now() - startMs;
    result.reads += 1;
    result.longestMs = Math.max(result.longestMs, tookMs);
    if (tookMs > DEADLINE_MS + LATENESS_MS) result.overDeadline += 1;
    if (urgency === "ahead") await pause(200);
  }
}

/** 4 KiB to 256 KiB, somewhere. */
function randomExtent({ location }: OriginBlob): Extent {
  const length = 4096 * (1 + Math.floor(Math.random() * 64));
  return { offset: Math.floor(Math.random() * (location.size - length)), length };
}
