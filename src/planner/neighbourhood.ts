// SPDX-License-Identifier: Apache-2.0
// What lies around misses that jump about. A program that starts reads files here and there, but
// files of one package lie side by side: two jumps into a region say that the rest of it will be
// wanted soon, one says that it may be. Pure but for its memory.

import { BLOCK_BYTES, type Extent, MIB, alignDown, extentEnd } from "../units.ts";

/** Logical bytes. */
const REGION_BYTES = 4 * MIB;
const REGIONS_MAX = 256;
const JUMPS_FOR_HOT = 2;

export interface NeighbourLimits {
  /** What one jump makes worth fetching on an idle wire, in all. */
  readonly windowBytes: number;
  readonly streamEnd: number;
}

export interface Neighbours {
  /** `hot`: worth fetching now. `cold`: only while nobody else needs the wire. */
  readonly heat: "hot" | "cold";
  /** The nearest first. */
  readonly extents: readonly Extent[];
}

interface Region {
  jumps: number;
}

export class Neighbourhood {
  readonly #limits: NeighbourLimits;
  readonly #regions = new Map<number, Region>();

  constructor(limits: NeighbourLimits) {
    this.#limits = limits;
  }

  /** A READ that continues nothing; `isStray` when it is of a reader who only takes single blocks. */
  jumped(read: Extent, isStray: boolean): Neighbours | undefined {
    if (isStray) return this.#cold(read);
    const start = alignDown(read.offset, REGION_BYTES);
    const region = this.#regions.get(start) ?? { jumps: 0 };
    // The one used last is the last.
    this.#regions.delete(start);
    this.#regions.set(start, region);
    const [oldest] = this.#regions.keys();
    if (this.#regions.size > REGIONS_MAX && oldest !== undefined) this.#regions.delete(oldest);
    region.jumps += 1;
    if (region.jumps < JUMPS_FOR_HOT) return this.#cold(read);
    // It has been handed out.
    if (region.jumps > JUMPS_FOR_HOT) return undefined;
    return { heat: "hot", extents: this.#around(read, start, start + REGION_BYTES) };
  }

  #cold(read: Extent): Neighbours {
    const half = alignDown(this.#limits.windowBytes / 2, BLOCK_BYTES);
    const extents = this.#around(read, read.offset - half, extentEnd(read) + half);
    return { heat: "cold", extents };
  }

  #around(read: Extent, from: number, to: number): Extent[] {
    const end = Math.min(to, this.#limits.streamEnd);
    const start = Math.max(from, 0);
    const behind = { offset: extentEnd(read), length: end - extentEnd(read) };
    const before = { offset: start, length: read.offset - start };
    return [behind, before].filter(({ length }) => length > 0);
  }
}
