// SPDX-License-Identifier: Apache-2.0
// A real Dragonfly network on loopback before a registry 20 ms and 50 MB/s away, driven through the
// daemon's registry client. EROFSD_PEERS=DIR names the folder of df-scheduler, dfdaemon and
// slowreg. Ends by itself, in about two minutes. dragonfly

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MIB } from "../../src/units.ts";
import { readThroughKills } from "./dragonfly/kills.ts";
import { type Network, startNetwork } from "./dragonfly/network.ts";
import { type BenchOrigin, type OriginBlob, startOrigin } from "./dragonfly/origin.ts";
import { BenchNode } from "./dragonfly/reader.ts";
import { pause } from "./dragonfly/program.ts";
import { type Result, printResults } from "./results.ts";

const SPOTS = 48;
const SPOT_BYTES = 4096;
const LIMIT_MS = 240_000;
/** Longer than peers work on for requests that were given up. */
const QUIET_MS = 8_000;

const programs = process.env["EROFSD_PEERS"];
if (programs === undefined) {
  console.error("dragonfly: EROFSD_PEERS must name the folder of df-scheduler, dfdaemon, slowreg");
  process.exit(2);
}
const home = await mkdtemp(join(tmpdir(), "erofsd-dragonfly-"));
let network: Network | undefined;
let origin: BenchOrigin | undefined;
const guard = setTimeout(() => {
  console.error(`dragonfly: not done after ${LIMIT_MS / 1000} s`);
  void cleanUp().then(() => process.exit(1));
}, LIMIT_MS);
try {
  origin = await startOrigin(programs, home, { count: 4, mib: 192 });
  network = await startNetwork(programs, join(home, "df"), 2);
  printResults(
    "Dragonfly on loopback, origin at 20 ms and 50 MB/s",
    await measure(origin, network),
  );
} finally {
  clearTimeout(guard);
  await cleanUp();
}

async function cleanUp(): Promise<void> {
  await network?.stop();
  await origin?.program.kill();
  await rm(home, { recursive: true, force: true });
}

async function measure(from: BenchOrigin, peers: Network): Promise<Result[]> {
  const [spots, straightSpots, shared, killed] = from.blobs;
  const [one, two] = peers.peers;
  if (!spots || !straightSpots || !shared || !killed || !one || !two) throw new Error("too few");
  const results = await measureSpots(straightSpots, spots, one);
  await pause(QUIET_MS);
  results.push(...(await measureSharing(from, shared, [one, two])));
  const node = new BenchNode(one);
  const kills = await readThroughKills(node, killed, { network: peers, origin: from });
  tell("through kills", node, kills.failed);
  await node.source.close();
  const failed = [...kills.failed.values()].reduce((sum, count) => sum + count, 0);
  results.push(
    ["kills: reads", kills.reads, ""],
    ["kills: wrong bytes", kills.wrong, "reads"],
    ["kills: over the deadline of 10 s", kills.overDeadline, "reads"],
    ["kills: failed in time", failed, "reads"],
    ["kills: longest read", kills.longestMs, "ms"],
  );
  return results;
}

type Peer = Network["peers"][number];

async function measureSpots(
  straight: OriginBlob,
  spots: OriginBlob,
  peer: Peer,
): Promise<Result[]> {
  const alone = await firstBytes(new BenchNode(undefined), straight);
  const node = new BenchNode(peer);
  const beside = await firstBytes(node, spots);
  tell(
    `spots: ${alone.map(Math.round).join(" ")} straight, ${beside.map(Math.round).join(" ")} ms`,
    node,
  );
  await node.source.close();
  const [direct, raced] = [quantile(alone, 0.5), quantile(beside, 0.5)];
  return [
    ["first 4 KiB straight, median", direct, "ms"],
    ["first 4 KiB straight, p90", quantile(alone, 0.9), "ms"],
    ["first 4 KiB with peers, median", raced, "ms"],
    ["first 4 KiB with peers, p90", quantile(beside, 0.9), "ms"],
    ["first 4 KiB with peers / straight (goal 1.3)", raced / direct, ""],
  ];
}

/** Of spots in pieces that nobody has, one after the other, in an order without a pattern. */
async function firstBytes(node: BenchNode, blob: OriginBlob): Promise<number[]> {
  const step = Math.floor(blob.location.size / SPOTS);
  const times: number[] = [];
  // The first request opens a connection, which is not what is measured.
  await node.read(blob, { offset: blob.location.size - 1, length: 1 }, "demand");
  for (let at = 0; at < SPOTS - 1; at += 1) {
    const offset = ((at * 29) % (SPOTS - 1)) * step;
    const { totalMs, isRight } = await node.read(blob, { offset, length: SPOT_BYTES }, "demand");
    if (!isRight) throw new Error("wrong bytes");
    times.push(totalMs);
  }
  return times;
}

async function measureSharing(
  from: BenchOrigin,
  blob: OriginBlob,
  peers: readonly [Peer, Peer],
): Promise<Result[]> {
  const results: Result[] = [];
  for (const [at, peer] of peers.entries()) {
    const node = new BenchNode(peer);
    const before = await from.sentBytes();
    const startMs = performance.now();
    if (!(await node.readAll(blob))) throw new Error("wrong bytes");
    const seconds = (performance.now() - startMs) / 1000;
    const sent = (await from.sentBytes()) - before;
    tell(`node ${at + 1} reads all`, node);
    await node.source.close();
    const name = `node ${at + 1} reads ${blob.location.size / MIB} MiB`;
    results.push([name, seconds, "s"]);
    const goal = at === 0 ? "" : " (goal 10)";
    results.push([`${name}: from the origin${goal}`, (100 * sent) / blob.location.size, "%"]);
  }
  return results;
}

function tell(what: string, { counts }: BenchNode, failed = new Map<string, number>()): void {
  console.log(`${what}: ${JSON.stringify(Object.fromEntries([...counts, ...failed]))}`);
}

function quantile(values: readonly number[], fraction: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(fraction * sorted.length)] ?? Number.NaN;
}
