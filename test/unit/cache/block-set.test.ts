// SPDX-License-Identifier: Apache-2.0
// The bitmap against a plain Set of block numbers.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BlockSet } from "../../../src/cache/block-set.ts";
import { BLOCK_BYTES, type Extent } from "../../../src/units.ts";
import { fuzzRuns } from "../../support/fuzz-runs.ts";

class Model {
  readonly blocks = new Set<number>();
  readonly #count: number;

  constructor(sizeBytes: number) {
    this.#count = Math.ceil(sizeBytes / BLOCK_BYTES);
  }

  of({ offset, length }: Extent): number[] {
    const all = Array.from({ length: length / BLOCK_BYTES }, (_, i) => offset / BLOCK_BYTES + i);
    return all.filter((block) => block < this.#count);
  }

  missing(extent: Extent): number[] {
    return this.of(extent).filter((block) => !this.blocks.has(block));
  }
}

const inBlocks = (first: number, count: number): Extent => ({
  offset: first * BLOCK_BYTES,
  length: count * BLOCK_BYTES,
});
const extent = fc.tuple(fc.nat(140), fc.nat(140)).map(([first, count]) => inBlocks(first, count));

test("behaves like a set of block numbers", () => {
  const scenario = fc.tuple(
    fc.integer({ min: 1, max: 130 * BLOCK_BYTES }),
    fc.array(extent, { maxLength: 12 }),
    fc.array(extent, { minLength: 1, maxLength: 6 }),
  );
  fc.assert(
    fc.property(scenario, ([sizeBytes, added, asked]) => {
      const set = new BlockSet(sizeBytes);
      const model = new Model(sizeBytes);
      for (const each of added) {
        set.add(each);
        for (const block of model.of(each)) model.blocks.add(block);
        expect(set.cachedBytes).toBe(model.blocks.size * BLOCK_BYTES);
      }
      for (const each of asked) {
        const missing = set.missing(each);
        expect(missing.flatMap((part) => model.of(part))).toEqual(model.missing(each));
        // Maximal runs: two neighbours would be one.
        for (const [i, part] of missing.entries()) {
          const before = missing[i - 1];
          if (before !== undefined)
            expect(part.offset).toBeGreaterThan(before.offset + before.length);
        }
        expect(set.covers(each)).toBe(missing.length === 0);
      }
      const copy = BlockSet.deserialize(sizeBytes, set.serialize());
      expect(copy?.cachedBytes).toBe(set.cachedBytes);
      expect(copy?.missing(inBlocks(0, 280))).toEqual(set.missing(inBlocks(0, 280)));
      expect(set.isComplete).toBe(model.blocks.size === Math.ceil(sizeBytes / BLOCK_BYTES));
    }),
    { numRuns: fuzzRuns(500) },
  );
});

describe("the edges", () => {
  test("bytes of another length are no set, and bits past the end do not count", () => {
    const bytes = new Uint8Array(8).fill(255);
    expect(BlockSet.deserialize(32 * BLOCK_BYTES, bytes)).toBeUndefined();
    expect(BlockSet.deserialize(40 * BLOCK_BYTES, bytes)?.cachedBytes).toBe(40 * BLOCK_BYTES);
    expect(BlockSet.deserialize(64 * BLOCK_BYTES, bytes)?.isComplete).toBe(true);
  });

  test("a stream of one byte has one block", () => {
    const set = new BlockSet(1);
    expect(set.missing(inBlocks(0, 2))).toEqual([inBlocks(0, 1)]);
    set.add(inBlocks(0, 4));
    expect([set.isComplete, set.cachedBytes]).toEqual([true, BLOCK_BYTES]);
  });

  test("blocks past the end are neither missing nor cached", () => {
    const set = new BlockSet(3 * BLOCK_BYTES);
    expect(set.missing(inBlocks(3, 5))).toEqual([]);
    expect(set.covers(inBlocks(3, 5))).toBe(true);
    set.add(inBlocks(3, 5));
    expect(set.cachedBytes).toBe(0);
  });

  test("an extent that is not whole blocks is a bug, not a guess", () => {
    const set = new BlockSet(BLOCK_BYTES);
    expect(() => set.add({ offset: 0, length: 100 })).toThrow("not whole blocks");
    expect(() => set.missing({ offset: 1, length: BLOCK_BYTES })).toThrow("not whole blocks");
  });

  test("offsets beyond 4 GiB are counted right", () => {
    const set = new BlockSet(20 * 2 ** 30);
    const far = { offset: 17 * 2 ** 30, length: 3 * BLOCK_BYTES };
    set.add(far);
    expect(set.covers(far)).toBe(true);
    expect(set.missing({ offset: far.offset - BLOCK_BYTES, length: 5 * BLOCK_BYTES })).toEqual([
      { offset: far.offset - BLOCK_BYTES, length: BLOCK_BYTES },
      { offset: far.offset + 3 * BLOCK_BYTES, length: BLOCK_BYTES },
    ]);
  });
});
