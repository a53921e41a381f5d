// SPDX-License-Identifier: Apache-2.0
// What lies around misses that jump about: it may be wanted too, when there is nothing better to
// do. For a reader of single blocks here and there, who is read ahead little, the rest of a region
// most likely is once half of it has been fetched. Pure but for its memory.

import { BLOCK_BYTES, type Extent, MIB, alignDown, extentEnd } from "../units.ts";

/** Logical bytes. */
const REGION_BYTES = 4 * MIB;
const REGIONS_MAX = 256;

export interface NeighbourLimits {
  /** What one jump makes worth fetching on an idle wire, in all. */
  readonly windowBytes: number;
  readonly streamEnd: number;
}

export interface Neighbours {
  /** `hot`: worth fetching now. `cold`: only where it is free, or nobody else needs the wire. */
  readonly heat: "hot" | "cold";
  /** May be empty. */
  readonly before: Extent;
  readonly behind: Extent;
}

export class Neighbourhood {
  readonly #limits: NeighbourLimits;
  /** Where the hot regions begin, the oldest first. */
  readonly #handedOut = new Set<number>();

  constructor(limits: NeighbourLimits) {
    this.#limits = limits;
  }

  /**
   * A READ that continues nothing, `isStray` when it is of a reader of single blocks.
   * `missingBytes` says how much of an extent is neither cached nor under way.
   */
  jumped(
    read: Extent,
    { isStray, reachBytes }: { readonly isStray: boolean; readonly reachBytes: number },
    missingBytes: (extent: Extent) => number,
  ): Neighbours | undefined {
    if (!isStray) return this.#cold(read, reachBytes);
    const start = alignDown(read.offset, REGION_BYTES);
    if (this.#handedOut.has(start)) return undefined;
    const length = Math.min(REGION_BYTES, this.#limits.streamEnd - start);
    if (missingBytes({ offset: start, length }) > length / 2) return this.#cold(read, reachBytes);
    this.#handedOut.add(start);
    const [oldest] = this.#handedOut;
    if (this.#handedOut.size > REGIONS_MAX && oldest !== undefined) this.#handedOut.delete(oldest);
    return { heat: "hot", ...this.#around(read, start, start + length) };
  }

  #cold(read: Extent, reachBytes: number): Neighbours {
    const half = alignDown(Math.max(reachBytes, this.#limits.windowBytes / 2), BLOCK_BYTES);
    return { heat: "cold", ...this.#around(read, read.offset - half, extentEnd(read) + half) };
  }

  #around(read: Extent, from: number, to: number): Pick<Neighbours, "before" | "behind"> {
    const end = Math.max(extentEnd(read), Math.min(to, this.#limits.streamEnd));
    const start = Math.max(from, 0);
    return {
      before: { offset: start, length: read.offset - start },
      behind: { offset: extentEnd(read), length: end - extentEnd(read) },
    };
  }
}
