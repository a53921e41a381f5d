// SPDX-License-Identifier: Apache-2.0
// A real Dragonfly network on loopback before a registry 20 ms and 50 MB/s away, driven through the
// daemon's registry client. EROFSD_PEERS=DIR names the folder of df-scheduler, dfdaemon and
// slowreg. Two networks: with the scheduler's defaults, and as README tells to set it up.
// Ends by itself, in about three minutes.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MIB } from "../../../src/units.ts";
import type { Report } from "../report.ts";
import { measureEngine } from "./engine.ts";
import { readThroughKills } from "./kills.ts";
import { type Network, type Peer, startNetwork } from "./network.ts";
import { type BenchOrigin, type OriginBlob, startOrigin } from "./origin.ts";
import { pause } from "./program.ts";
import { BenchNode } from "./reader.ts";

const SPOTS = 40;
const SPOT_BYTES = 4096;
const LIMIT_MS = 300_000;
/** Longer than peers work on for requests that were given up. */
const QUIET_MS = 8_000;
const AS_TOLD = ["retryBackToSourceLimit: 1", "retryInterval: 50ms"];

const part = "dragonfly";

/** `imagesHome`: where the images of the host's benchmark are kept. */
export async function benchDragonfly(report: Report, imagesHome: string): Promise<void> {
  const programs = process.env["EROFSD_PEERS"];
  if (programs === undefined) {
    throw new Error("EROFSD_PEERS must name the folder of df-scheduler, dfdaemon and slowreg");
  }
  report.heading("Dragonfly on loopback, registry at 20 ms and 50 MB/s");
  const home = await mkdtemp(join(tmpdir(), "erofsd-dragonfly-"));
  const started: { stop(): Promise<void> }[] = [];
  const cleanUp = async (): Promise<void> => {
    for (const each of started.splice(0)) await each.stop();
    await rm(home, { recursive: true, force: true });
  };
  const guard = setTimeout(() => {
    console.error(`not done after ${LIMIT_MS / 1000} s`);
    void cleanUp().then(() => process.exit(1));
  }, LIMIT_MS);
  try {
    const origin = await startOrigin(programs, home, { count: 5, mib: 160 });
    started.push({ stop: () => origin.program.kill() });
    const start = async (name: string, scheduling: readonly string[]): Promise<Network> => {
      const place = join(home, name);
      const network = await startNetwork({ programs, home: place, peerCount: 2, scheduling });
      started.push(network);
      return network;
    };
    const network = await measureAll(report, origin, start);
    await measureEngine(report, part, { home: imagesHome, network });
  } finally {
    clearTimeout(guard);
    await cleanUp();
  }
}

async function measureAll(
  report: Report,
  origin: BenchOrigin,
  start: (name: string, scheduling: readonly string[]) => Promise<Network>,
): Promise<Network> {
  const [alone, spots, spotsTuned, shared, killed] = origin.blobs;
  if (!alone || !spots || !spotsTuned || !shared || !killed) throw new Error("too few blobs");
  const straight = await firstBytes(new BenchNode(undefined), alone);
  const plain = await start("default", []);
  await measureSpots(report, "scheduler's defaults", straight, spots, plain.peers[0]);
  await plain.stop();
  await pause(QUIET_MS);
  const network = await start("told", AS_TOLD);
  await measureSpots(report, "as README tells", straight, spotsTuned, network.peers[0]);
  await pause(QUIET_MS);
  await measureSharing(report, origin, shared, network);
  await measureKills(report, killed, { network, origin });
  return network;
}

async function measureSpots(
  report: Report,
  name: string,
  straight: readonly number[],
  blob: OriginBlob,
  peer: Peer | undefined,
): Promise<void> {
  const node = new BenchNode(peer);
  const times = await firstBytes(node, blob);
  report.add({
    part,
    name: `first 4 KiB nobody has, ${name}`,
    value: quantile(times, 0.5),
    unit: "ms",
    reference: { name: "straight", value: quantile(straight, 0.5) },
    goal: { kind: "at most", value: 1.3 },
    details: {
      "p90 ms": quantile(times, 0.9),
      "straight p90 ms": quantile(straight, 0.9),
      ...Object.fromEntries(node.counts),
    },
  });
  await node.source.close();
}

/** Of spots in pieces that nobody has, one after the other, in an order without a pattern. */
async function firstBytes(node: BenchNode, blob: OriginBlob): Promise<number[]> {
  const step = Math.floor(blob.location.size / SPOTS);
  const times: number[] = [];
  // The first request opens a connection, which is not what is measured.
  await node.read(blob, { offset: blob.location.size - 1, length: 1 }, "demand");
  for (let at = 0; at < SPOTS - 1; at += 1) {
    const offset = ((at * 17) % (SPOTS - 1)) * step;
    const { totalMs, isRight } = await node.read(blob, { offset, length: SPOT_BYTES }, "demand");
    if (!isRight) throw new Error("wrong bytes");
    times.push(totalMs);
  }
  return times;
}

/** The first node reads all of a blob that nobody has, then the second one does. */
async function measureSharing(
  report: Report,
  origin: BenchOrigin,
  blob: OriginBlob,
  { peers }: Network,
): Promise<void> {
  for (const [at, peer] of peers.entries()) {
    const node = new BenchNode(peer);
    const before = await origin.sentBytes();
    const startMs = performance.now();
    if (!(await node.readAll(blob))) throw new Error("wrong bytes");
    const seconds = (performance.now() - startMs) / 1000;
    const sent = (await origin.sentBytes()) - before;
    const isSecond = at === 1;
    report.add({
      part,
      name: `node ${at + 1} reads ${blob.location.size / MIB} MiB: origin sent`,
      value: (100 * sent) / blob.location.size,
      unit: "%",
      ...(isSecond && { goal: { kind: "at most", value: 10 } }),
      details: { seconds, ...Object.fromEntries(node.counts) },
    });
    await node.source.close();
  }
}

async function measureKills(
  report: Report,
  blob: OriginBlob,
  site: { readonly network: Network; readonly origin: BenchOrigin },
): Promise<void> {
  const node = new BenchNode(site.network.peers[0]);
  const kills = await readThroughKills(node, blob, site);
  await node.source.close();
  const none = { kind: "at most", value: 0 } as const;
  report.add({
    part,
    name: "killed in turn: reads with wrong bytes",
    value: kills.wrong,
    unit: `of ${kills.reads}`,
    goal: none,
    details: { "longest ms": kills.longestMs, ...Object.fromEntries(node.counts) },
  });
  report.add({
    part,
    name: "killed in turn: reads over their 10 s",
    value: kills.overDeadline,
    unit: `of ${kills.reads}`,
    goal: none,
    details: Object.fromEntries(kills.failed),
  });
}

function quantile(values: readonly number[], fraction: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(fraction * sorted.length)] ?? Number.NaN;
}
