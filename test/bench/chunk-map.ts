// SPDX-License-Identifier: Apache-2.0
// What a Nydus blob of a million chunks costs: reading its chunk table and chunk infos into a
// chunk map, reading the map back from a file, looking a chunk up. `scripts/bench maps` runs it.

import { performance } from "node:perf_hooks";
import { buildChunkMap } from "../../src/image/rafs/build-chunk-map.ts";
import { RafsChunkMap } from "../../src/image/rafs/chunk-map.ts";
import { ChunkTableReader } from "../../src/image/rafs/chunk-table.ts";
import { makeBlob } from "../support/rafs-builder.ts";
import { seededRandom } from "../support/seeded-random.ts";
import { printResults } from "./results.ts";

const CHUNKS = 1_000_000;
const LOOKUPS = 1_000_000;
const PIECE_BYTES = 1 << 20;
const RUNS = 5;

const random = seededRandom(1);
const made = makeBlob({
  chunks: Array.from({ length: CHUNKS }, (_, index) => ({
    size: 3000 + (index % 1000),
    storedOffset: index * 1000,
    storedBytes: 900,
  })),
  order: (rows) => {
    random.shuffle(rows);
  },
});

interface Load {
  readonly map: RafsChunkMap;
  readonly tableMs: number;
  readonly buildMs: number;
  /** The longest time in which nobody else had a turn. */
  readonly stallMs: number;
}

function load(): Load {
  const started = performance.now();
  let stallMs = 0;
  let last = started;
  const turn = (): void => {
    const now = performance.now();
    stallMs = Math.max(stallMs, now - last);
    last = now;
  };
  const reader = new ChunkTableReader(made.bootstrap, [made.blob], "bench");
  turn();
  for (let at = 0; at < made.table.length; at += PIECE_BYTES) {
    reader.push(made.table.subarray(at, at + PIECE_BYTES));
    turn();
  }
  const [rows = made.rows] = reader.finish();
  turn();
  const tableMs = performance.now() - started;
  const building = buildChunkMap({ ...made, rows });
  for (;;) {
    const step = building.next();
    turn();
    if (step.done === true) {
      const buildMs = performance.now() - started - tableMs;
      return { map: step.value, tableMs, buildMs, stallMs };
    }
  }
}

function timed(work: () => void): number {
  const started = performance.now();
  work();
  return performance.now() - started;
}

const before = process.cpuUsage();
const loads = Array.from({ length: RUNS }, load);
const { user, system } = process.cpuUsage(before);
const [first] = loads;
const best = loads.reduce((a, b) => (a.tableMs + a.buildMs < b.tableMs + b.buildMs ? a : b));
const file = new Uint8Array(Buffer.concat(best.map.serialize()));
const reads = Array.from({ length: RUNS }, () =>
  timed(() => {
    RafsChunkMap.deserialize(file, "bench");
  }),
);
const offsets = Array.from({ length: LOOKUPS }, () => random.between(0, CHUNKS - 1) * 4096);
let sum = 0;
const lookMs = timed(() => {
  for (const offset of offsets) sum += best.map.chunkAt(offset);
});
const widenMs = timed(() => {
  for (const offset of offsets) sum += best.map.widen({ offset, length: 4096 }).length;
});
if (sum === 0) throw new Error("nothing was looked up");

printResults("chunk map of 1,000,000 chunks", [
  ["load, first", first === undefined ? 0 : first.tableMs + first.buildMs, "ms"],
  ["load, best", best.tableMs + best.buildMs, "ms"],
  ["load, processor time", (user + system) / 1000 / RUNS, "ms"],
  ["chunk table", best.tableMs, "ms"],
  ["build", best.buildMs, "ms"],
  ["longest stall", best.stallMs, "ms"],
  ["deserialize", Math.min(...reads), "ms"],
  ["memory", best.map.memoryBytes / CHUNKS, "bytes/chunk"],
  ["lookup", (lookMs * 1e6) / LOOKUPS, "ns"],
  ["widen", (widenMs * 1e6) / LOOKUPS, "ns"],
]);
