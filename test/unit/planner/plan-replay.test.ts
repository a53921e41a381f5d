// SPDX-License-Identifier: Apache-2.0
// A trace as requests: each block once, soon wanted ones first, near ones together.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type ReplayRead, planReplay } from "../../../src/planner/plan-replay.ts";
import { BLOCK_BYTES, KIB } from "../../../src/units.ts";

const B = BLOCK_BYTES;
const read = (first: number, count: number, device = 0): ReplayRead => ({
  device,
  offset: first * B,
  length: count * B,
});
const plan = (reads: readonly ReplayRead[], gapBlocks = 0): ReplayRead[] => [
  ...planReplay(reads, () => gapBlocks * B),
];

describe("a replay", () => {
  test("has each block once, in the order in which they are first read", () => {
    expect(plan([read(10, 2), read(4, 1), read(11, 2), read(4, 1), read(0, 1, 1)])).toEqual([
      read(10, 3),
      read(4, 1),
      read(0, 1, 1),
    ]);
  });

  test("merges what is near in the stream, gaps included, as far as it is near in time", () => {
    expect(plan([read(8, 1), read(0, 1), read(10, 1)], 1)).toEqual([read(8, 3), read(0, 1)]);
    // The first 256 KiB go out before anybody looks at what follows.
    expect(plan([read(100, 64), read(0, 1), read(164, 1)], 1)).toEqual([
      read(100, 64),
      read(0, 1),
      read(164, 1),
    ]);
  });

  test("is bounded by what is read and the gaps between, whatever is read", () => {
    const any = fc.array(
      fc.record({
        device: fc.integer({ min: 0, max: 2 }),
        offset: fc.integer({ min: 0, max: 4_000_000 }),
        length: fc.integer({ min: 1, max: 200 * KIB }),
      }),
    );
    fc.assert(
      fc.property(any, fc.integer({ min: 0, max: 8 }), (reads, gapBlocks) => {
        const blocksOf = (parts: readonly ReplayRead[]): string[] =>
          parts.flatMap(({ device, offset, length }) => {
            const first = Math.floor(offset / B);
            const count = Math.ceil((offset + length) / B) - first;
            return Array.from({ length: count }, (_, n) => `${device}:${first + n}`);
          });
        const wanted = new Set(blocksOf(reads));
        expect(new Set(blocksOf(plan(reads))).size).toBe(blocksOf(plan(reads)).length);
        expect(new Set(blocksOf(plan(reads)))).toEqual(wanted);
        const withGaps = new Set(blocksOf(plan(reads, gapBlocks)));
        for (const block of wanted) expect(withGaps.has(block)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });
});
