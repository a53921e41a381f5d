// SPDX-License-Identifier: Apache-2.0
// Where a schedule is played, drawn from its seed: limits, hosts with their links, streams, and the
// ways in which readers go. Removing steps from a schedule changes none of it.

import { BLOCK_BYTES, type Extent, KIB } from "../../../src/units.ts";
import type { RigOptions } from "../flow-rig.ts";
import { blocks } from "../flow-rig.ts";
import { type SeededRandom, seededRandom } from "../seeded-random.ts";
import { type SimulatedUnit, drawUnits } from "./units.ts";

export interface HostLink {
  readonly host: string;
  readonly rttMs: number;
  readonly bytesPerMs: number;
}

export interface StreamShape {
  readonly host: string;
  readonly salt: number;
  /** Of a raw stream. */
  readonly sizeBytes: number;
  /** Undefined: a raw stream. */
  readonly units: SimulatedUnit[] | undefined;
}

export type ReaderKind = "sequential" | "backward" | "strided" | "random" | "again";

export interface ReaderShape {
  readonly kind: ReaderKind;
  readonly blocks: number;
  readonly strideBlocks: number;
}

export interface World {
  readonly seed: number;
  readonly rig: RigOptions & { readonly limits: { readonly readTimeoutMs: number } };
  readonly hosts: readonly HostLink[];
  readonly streams: readonly StreamShape[];
  readonly readers: readonly ReaderShape[];
  /** A prefetch table's entries. */
  readonly table: readonly ({ readonly device: number } & Extent)[];
}

/** What the schedule is rich in: long requests; readers who jump about while a host is busy. */
type Kind = "large" | "jumpy" | "mixed";

const READ_TIMEOUT_MS = 2_000;

/** A chance of its own for one use: what is drawn elsewhere does not shift it. */
export function chanceOf(seed: number, use: number): SeededRandom {
  return seededRandom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(use + 1, 0x85ebca6b));
}

export function drawWorld(seed: number): World {
  const random = chanceOf(seed, 0);
  // Large ones are dearer to check.
  const dice = random.between(0, 99);
  const kind: Kind = dice < 10 ? "large" : dice < 25 ? "jumpy" : "mixed";
  const isLarge = kind === "large";
  const windowBlocks = isLarge ? random.between(16, 160) : random.between(1, 12);
  const hosts = Array.from({ length: random.between(1, 3) }, (_, index) => ({
    host: `host-${index}.example`,
    rttMs: random.between(1, 120),
    bytesPerMs: random.between(1, isLarge ? 20 : 4) * random.between(1, 2) * KIB,
  }));
  const streams = Array.from({ length: random.between(1, 3) }, (_, index) =>
    drawStream(random, { kind, salt: index + 1, host: random.pick(hosts)?.host ?? "" }),
  );
  return {
    seed,
    rig: {
      slabBlocks: isLarge ? random.between(32, 160) : random.between(1, 10),
      slabsMax: random.between(1, 6),
      limits: {
        windowBytes: windowBlocks * BLOCK_BYTES,
        windowBytesMax: windowBlocks * random.between(1, 5) * BLOCK_BYTES,
        requestsPerHost: random.between(1, kind === "jumpy" ? 3 : 8),
        fillsNeighbours: random.chance(0.5),
        opensSpares: false,
        readTimeoutMs: READ_TIMEOUT_MS,
      },
    },
    hosts,
    streams,
    readers: Array.from({ length: random.between(1, 5) }, () => drawReader(random, kind)),
    table: Array.from({ length: random.between(0, 3) }, () => {
      const first = random.between(0, 30);
      return { device: random.between(0, 3), ...blocks(first, first + random.between(1, 9)) };
    }),
  };
}

function drawStream(
  random: SeededRandom,
  { kind, salt, host }: { kind: Kind; salt: number; host: string },
): StreamShape {
  const isRaw = random.chance(0.5);
  const blocksMax = drawBlocks(random, kind, isRaw);
  return {
    host,
    salt,
    sizeBytes: blocksMax * BLOCK_BYTES - random.between(0, 1) * 1000,
    units: isRaw ? undefined : drawUnits(random, blocksMax),
  };
}

function drawBlocks(random: SeededRandom, kind: Kind, isRaw: boolean): number {
  if (kind === "large") return random.between(100, 600);
  if (kind === "jumpy") return random.between(100, 160);
  // Raw ones that one fetch carries are verified as a whole.
  return random.between(1, isRaw && random.chance(0.3) ? 6 : 48);
}

function drawLength(random: SeededRandom, isLarge: boolean): number {
  if (random.chance(0.2)) return random.between(5, isLarge ? 80 : 20);
  return random.chance(0.5) ? 1 : random.between(2, 3);
}

function drawReader(random: SeededRandom, kind: Kind): ReaderShape {
  const isLarge = kind === "large";
  if (kind === "jumpy" && random.chance(0.7)) {
    return { kind: "random", blocks: 1, strideBlocks: 1 };
  }
  const kinds = ["sequential", "sequential", "backward", "strided", "random", "again"] as const;
  return {
    kind: random.pick(kinds) ?? "random",
    blocks: drawLength(random, isLarge),
    strideBlocks: isLarge ? random.between(33, 120) : random.between(2, 9),
  };
}
