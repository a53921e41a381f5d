// SPDX-License-Identifier: Apache-2.0
// A stream of units drawn from a seed: one to five blocks each, in up to three pieces, stored with
// gaps, longer or shorter than they decode to. Some may not be served, some are bad. Decoding takes
// virtual time, ends in any order, and leaves rubbish in the slab until a unit is verified.

import { DaemonError } from "../../../src/errors.ts";
import type { DecodeUnit } from "../../../src/decoder/unit-decoder.ts";
import type { ChunkMap, CutLimits, Piece, Unit } from "../../../src/image/chunk-map.ts";
import { BLOCK_BYTES, type Extent, alignUp, extentEnd } from "../../../src/units.ts";
import type { FakeClock } from "../fake-clock.ts";
import { patternBytes } from "../flow-rig.ts";
import type { PoisonedSlabPool } from "../poisoned-slabs.ts";
import { type SeededRandom, seededRandom } from "../seeded-random.ts";

export interface SimulatedUnit {
  /** Logical. */
  readonly extent: Extent;
  readonly unit: Unit;
  /** An image vouches for it: it may be served. */
  isTrusted: boolean;
  /** It never decodes to what its digests say. */
  readonly isBad: boolean;
}

const RUBBISH = 0x99;
const NO_DIGEST = new Uint8Array(32);

export interface DecoderRig {
  readonly clock: FakeClock;
  readonly slabs: PoisonedSlabPool;
  readonly seed: number;
}

export class SimulatedUnits implements ChunkMap {
  readonly all: readonly SimulatedUnit[];
  readonly storedBytes: Uint8Array;
  /** The device as a reader must see it. */
  readonly bytes: Uint8Array;
  readonly sizeBytes: number;
  readonly digester = "sha256";
  readonly violations: string[] = [];
  /** Something took so long to decode that a reader may have been late. */
  wasSlow = false;

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
      if (unit.codec === "none") this.#storeAsItIs(unit);
    }
  }

  #storeAsItIs({ stored, pieces }: Unit): void {
    for (const { offset, length } of pieces) {
      this.storedBytes.set(this.bytes.subarray(offset, offset + length), stored.offset);
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

  /** How long the nth decode of a unit takes is drawn from the seed, whatever else happens. */
  decoder({ clock, slabs, seed }: DecoderRig): DecodeUnit {
    const calls = new Map<number, number>();
    return (unit, stored, into) => {
      const lease = slabs.leaseOf(into.bytes);
      const index = this.all.findIndex((known) => known.unit === unit);
      const one = this.all[index];
      if (one === undefined || !one.isTrusted || lease === undefined) {
        this.violations.push("a unit was decoded that may not be served, or into no slab");
        return Promise.resolve();
      }
      const nth = (calls.get(index) ?? 0) + 1;
      calls.set(index, nth);
      const random = seededRandom(seed * 7_919 + index * 104_729 + nth);
      const given = stored.slice();
      const place = into.bytes
        .subarray(one.extent.offset - into.offset)
        .subarray(0, one.extent.length);
      // Stored bytes that lie where they belong are left there.
      const isInPlace = stored.byteOffset === place.byteOffset;
      if (!isInPlace) place.fill(RUBBISH);
      return new Promise((resolve, reject) => {
        const isSlow = random.chance(0.02);
        this.wasSlow ||= isSlow;
        const delayMs = isSlow ? random.between(500, 3_000) : random.between(0, 60);
        clock.after(delayMs, () => {
          if (slabs.leaseOf(into.bytes) !== lease) {
            this.violations.push("a decode ran on a slab that had been given back");
            return;
          }
          if (Buffer.compare(stored, given) !== 0) {
            this.violations.push("stored bytes changed under a decode");
          }
          const expected = this.storedBytes.subarray(unit.stored.offset, extentEnd(unit.stored));
          if (Buffer.compare(given, expected) !== 0 || one.isBad) {
            reject(mismatch());
            return;
          }
          place.set(this.bytes.subarray(one.extent.offset, extentEnd(one.extent)));
          resolve();
        });
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

export function drawUnits(random: SeededRandom, blocksWanted: number): SimulatedUnit[] {
  if (random.chance(0.2)) return drawStoredAsTheyAre(random, blocksWanted);
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

/** One piece each, not compressed, one behind the other: they need not be moved to be decoded. */
function drawStoredAsTheyAre(random: SeededRandom, blocksWanted: number): SimulatedUnit[] {
  const units: SimulatedUnit[] = [];
  for (let block = 0; block < blocksWanted; ) {
    const length = random.between(1, 5) * BLOCK_BYTES;
    const extent = { offset: block * BLOCK_BYTES, length };
    const pieces = [{ offset: extent.offset, from: 0, length, digest: NO_DIGEST }];
    const unit: Unit = { stored: extent, codec: "none", decodedBytes: length, pieces };
    units.push({ extent, unit, isTrusted: !random.chance(0.05), isBad: random.chance(0.05) });
    block += length / BLOCK_BYTES;
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
