// SPDX-License-Identifier: Apache-2.0
// A stream of units drawn from a seed: one to five blocks each, in up to three pieces, stored with
// gaps, longer or shorter than they decode to. Some may not be served, some are bad. Decoding takes
// virtual time, ends in any order, and leaves rubbish in the slab until a unit is verified.

import { DaemonError } from "../../src/errors.ts";
import type { DecodeUnit } from "../../src/decoder/unit-decoder.ts";
import type { ChunkMap, CutLimits, Piece, Unit } from "../../src/image/chunk-map.ts";
import { BLOCK_BYTES, type Extent, alignUp, extentEnd } from "../../src/units.ts";
import type { FakeClock } from "./fake-clock.ts";
import { patternBytes } from "./flow-rig.ts";
import type { PoisonedSlabPool } from "./poisoned-slabs.ts";
import type { SeededRandom } from "./seeded-random.ts";

export interface SimulatedUnit {
  /** Logical. */
  readonly extent: Extent;
  readonly unit: Unit;
  /** An image vouches for it: it may be served. */
  isTrusted: boolean;
  /** It never decodes to what its digests say. */
  readonly isBad: boolean;
}

const BLOCKS_MAX = 40;
const RUBBISH = 0x99;
const NO_DIGEST = new Uint8Array(32);

/** Faults planted in the decoder. */
type DecoderFault = "unverified" | "released early" | "spread";
/** Faults of ours, planted to see that the checks find them. */
export type PlantedFault =
  | "wrong byte"
  | "early answer"
  | "lost answer"
  | "second fetch"
  | "twice"
  | "sibling"
  | DecoderFault;

export interface DecoderRig {
  readonly clock: FakeClock;
  readonly slabs: PoisonedSlabPool;
  readonly random: SeededRandom;
  readonly planted: PlantedFault | undefined;
}

export class SimulatedUnits implements ChunkMap {
  readonly all: readonly SimulatedUnit[];
  readonly storedBytes: Uint8Array;
  /** The device as a reader must see it. */
  readonly bytes: Uint8Array;
  readonly sizeBytes: number;
  readonly digester = "sha256";
  readonly violations: string[] = [];

  constructor(all: readonly SimulatedUnit[], salt: number) {
    const last = all.at(-1);
    this.all = all;
    this.sizeBytes = last === undefined ? 0 : extentEnd(last.extent);
    this.storedBytes = patternBytes(
      last === undefined ? 0 : extentEnd(last.unit.stored),
      salt + 50,
    );
    this.bytes = new Uint8Array(this.sizeBytes);
    const pattern = patternBytes(this.sizeBytes, salt);
    for (const { unit } of all) {
      for (const { offset, length } of unit.pieces) {
        this.bytes.set(pattern.subarray(offset, offset + length), offset);
      }
    }
  }

  widen(extent: Extent): Extent {
    const touched = this.touched(extent);
    const [first, last] = [touched[0], touched.at(-1)];
    if (first === undefined || last === undefined) throw new Error("an extent outside the device");
    return join(first.extent, last.extent);
  }

  cut(extent: Extent, limits: CutLimits): Extent {
    let head: Extent = { offset: extent.offset, length: 0 };
    let stored: Extent | undefined;
    for (const one of this.#whole(extent)) {
      if (!one.isTrusted) break;
      const more = join(head, one.extent);
      const moreStored = stored === undefined ? one.unit.stored : join(stored, one.unit.stored);
      const isOver =
        more.length > limits.logicalBytesMax || moreStored.length > limits.storedBytesMax;
      if (isOver && head.length > 0) break;
      head = more;
      stored = moreStored;
    }
    return head;
  }

  stored(extent: Extent): Extent {
    const whole = this.#whole(extent).map(({ unit }) => unit.stored);
    return whole.reduce((sum, stored) => join(sum, stored));
  }

  units(extent: Extent): readonly Unit[] {
    return this.#whole(extent).map(({ unit }) => unit);
  }

  /** Units of which a byte lies in the logical `extent`. */
  touched(extent: Extent): SimulatedUnit[] {
    return this.all.filter(
      (one) => one.extent.offset < extentEnd(extent) && extent.offset < extentEnd(one.extent),
    );
  }

  /** Units that begin and end within a stored extent; undefined when it cuts one, or is longer. */
  storedWithin(stored: Extent): SimulatedUnit[] | undefined {
    const within = this.all.filter(
      ({ unit }) =>
        unit.stored.offset >= stored.offset && extentEnd(unit.stored) <= extentEnd(stored),
    );
    const [first, last] = [within[0], within.at(-1)];
    const isWhole =
      first?.unit.stored.offset === stored.offset &&
      last !== undefined &&
      extentEnd(last.unit.stored) === extentEnd(stored);
    return isWhole ? within : undefined;
  }

  decoder({ clock, slabs, random, planted }: DecoderRig): DecodeUnit {
    const isPlanted = (fault: DecoderFault): boolean => planted === fault && random.chance(0.3);
    let isSpreading = false;
    return (unit, stored, into) => {
      const lease = slabs.leaseOf(into.bytes);
      const one = this.all.find((known) => known.unit === unit);
      if (one === undefined || !one.isTrusted || lease === undefined) {
        this.violations.push("a unit was decoded that may not be served, or into no slab");
        return Promise.resolve();
      }
      const place = one.extent.offset - into.offset;
      into.bytes.fill(RUBBISH, place, place + one.extent.length);
      const [isEarly, isGivenUp] = [isPlanted("unverified"), isPlanted("released early")];
      return new Promise((resolve, reject) => {
        const delayMs = random.chance(0.05) ? random.between(500, 3_000) : random.between(0, 60);
        clock.after(delayMs, () => {
          if (slabs.leaseOf(into.bytes) !== lease) {
            this.violations.push("a decode ran on a slab that had been given back");
            return;
          }
          const expected = this.storedBytes.subarray(unit.stored.offset, extentEnd(unit.stored));
          const isRight = Buffer.compare(stored, expected) === 0 && !one.isBad;
          const isFailed: boolean = !isRight || (isSpreading && planted === "spread");
          isSpreading = !isRight;
          if (isFailed) {
            reject(mismatch());
            return;
          }
          const bytes = this.bytes.subarray(one.extent.offset, extentEnd(one.extent));
          into.bytes.set(bytes, place);
          resolve();
        });
        if (isEarly) resolve();
        if (isGivenUp) reject(mismatch());
      });
    };
  }

  #whole(extent: Extent): SimulatedUnit[] {
    const touched = this.touched(extent);
    const [first, last] = [touched[0], touched.at(-1)];
    const isWhole =
      first?.extent.offset === extent.offset &&
      last !== undefined &&
      extentEnd(last.extent) === extentEnd(extent);
    if (!isWhole) throw new Error(`${extent.offset}+${extent.length} is not whole units`);
    return touched;
  }
}

export function drawUnits(random: SeededRandom): SimulatedUnit[] {
  const blocksWanted = random.between(1, BLOCKS_MAX);
  const units: SimulatedUnit[] = [];
  let block = 0;
  let storedAt = random.between(0, 3_000);
  while (block < blocksWanted) {
    const blocks = random.between(1, 5);
    const storedBytes = random.between(1, Math.floor(blocks * BLOCK_BYTES * 1.4));
    const extent = { offset: block * BLOCK_BYTES, length: blocks * BLOCK_BYTES };
    const pieces = drawPieces(random, extent);
    const unit: Unit = {
      stored: { offset: storedAt, length: storedBytes },
      codec: "zstd",
      decodedBytes: pieces.reduce((sum, { length }) => sum + length, 0),
      pieces,
    };
    const isTrusted = !random.chance(0.08);
    units.push({ extent, unit, isTrusted, isBad: random.chance(0.08) });
    storedAt += storedBytes + (random.chance(0.5) ? random.between(1, 6_000) : 0);
    block += blocks;
  }
  return units;
}

function drawPieces(random: SeededRandom, { offset, length }: Extent): Piece[] {
  const pieces: Piece[] = [];
  let from = 0;
  for (let at = offset; at < offset + length; ) {
    const left = (offset + length - at) / BLOCK_BYTES;
    const blocks = pieces.length === 2 ? left : random.between(1, left);
    const bytes = blocks * BLOCK_BYTES - (random.chance(0.5) ? random.between(1, 4_000) : 0);
    pieces.push({ offset: at, from, length: bytes, digest: NO_DIGEST });
    from += bytes;
    at += alignUp(bytes, BLOCK_BYTES);
  }
  return pieces;
}

function join(a: Extent, b: Extent): Extent {
  const offset = Math.min(a.offset, b.offset);
  return { offset, length: Math.max(extentEnd(a), extentEnd(b)) - offset };
}

function mismatch(): DaemonError {
  const digests = { expected: "one", actual: "another" };
  return new DaemonError({ code: "digest_mismatch", where: "a simulated unit", ...digests });
}
