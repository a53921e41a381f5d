// SPDX-License-Identifier: Apache-2.0
// What a plan must hold for any cache, any flights and any request; and the picture in the
// planner's header as examples. Numbers are 4 KiB blocks.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BlockSet } from "../../../src/cache/block-set.ts";
import { rawChunkMap } from "../../../src/image/chunk-map.ts";
import { minus, planFill } from "../../../src/planner/plan-fill.ts";
import { BLOCK_BYTES, type Extent } from "../../../src/units.ts";
import { fuzzRuns } from "../../support/fuzz-runs.ts";

type Span = readonly [first: number, end: number];

const inBytes = ([first, end]: Span): Extent => ({
  offset: first * BLOCK_BYTES,
  length: (end - first) * BLOCK_BYTES,
});
const inBlocks = ({ offset, length }: Extent): Span => [
  offset / BLOCK_BYTES,
  (offset + length) / BLOCK_BYTES,
];
const numbers = ([first, end]: Span): number[] =>
  Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i);

interface Asked {
  readonly want: Span;
  readonly cached?: readonly Span[];
  readonly inFlight?: readonly Span[];
  readonly stream?: number;
  readonly window?: number;
  readonly fetchMax?: number;
}

function plan(asked: Asked): Span[] {
  const stream = asked.stream ?? 100;
  const blocks = new BlockSet(stream * BLOCK_BYTES);
  for (const span of asked.cached ?? []) blocks.add(inBytes(span));
  const { fetches } = planFill({
    want: inBytes(asked.want),
    windowBytes: (asked.window ?? 10) * BLOCK_BYTES,
    map: rawChunkMap(stream * BLOCK_BYTES),
    fetchMax: {
      logicalBytesMax: (asked.fetchMax ?? 100) * BLOCK_BYTES,
      storedBytesMax: Number.POSITIVE_INFINITY,
    },
    streamEnd: stream * BLOCK_BYTES,
    missing: (extent) => blocks.missing(extent),
    inFlight: (asked.inFlight ?? []).map(inBytes),
    gapBytes: 0,
    extraStoredMax: Number.POSITIVE_INFINITY,
  });
  return fetches.map(inBlocks);
}

describe("examples", () => {
  test("a miss in an empty cache fetches a window from the miss", () => {
    expect(plan({ want: [5, 6] })).toEqual([[5, 15]]);
  });

  test("the picture: cached bytes split the demand, read-ahead stops at what is cached", () => {
    const asked = {
      want: [10, 20],
      cached: [
        [14, 16],
        [23, 30],
      ],
      inFlight: [[10, 11]],
    } as const;
    expect(plan({ ...asked, window: 20 })).toEqual([
      [11, 14],
      [16, 23],
    ]);
  });

  test("read-ahead stops at what is in flight", () => {
    expect(plan({ want: [0, 2], inFlight: [[4, 8]] })).toEqual([[0, 4]]);
  });

  test("nothing is fetched when all is cached or in flight", () => {
    expect(plan({ want: [3, 5], cached: [[3, 4]], inFlight: [[4, 5]] })).toEqual([]);
  });

  test("a request longer than the window is fetched whole, without read-ahead", () => {
    expect(plan({ want: [0, 30], window: 10 })).toEqual([[0, 30]]);
  });

  test("the window is cut at the end of the stream", () => {
    expect(plan({ want: [97, 98] })).toEqual([[97, 100]]);
  });

  test("a request past the end of the stream asks for nothing there", () => {
    expect(plan({ want: [98, 110] })).toEqual([[98, 100]]);
    expect(plan({ want: [100, 110] })).toEqual([]);
  });

  test("no fetch is longer than a buffer", () => {
    expect(plan({ want: [0, 9], fetchMax: 4 })).toEqual([
      [0, 4],
      [4, 8],
      [8, 10],
    ]);
  });

  test("a request that ends in cached bytes is not read ahead of", () => {
    expect(plan({ want: [0, 4], cached: [[2, 4]] })).toEqual([[0, 2]]);
  });
});

const span = fc
  .tuple(fc.nat(70), fc.integer({ min: 1, max: 20 }))
  .map(([a, n]): Span => [a, a + n]);
/** Spans that do not overlap, as flights never do. */
const disjoint = fc.array(span, { maxLength: 5 }).map((spans) => {
  const taken = new Set<number>();
  return spans.filter((each) => {
    const mine = numbers(each);
    if (mine.some((block) => taken.has(block))) return false;
    for (const block of mine) taken.add(block);
    return true;
  });
});
const question = fc.record({
  want: span,
  cached: fc.array(span, { maxLength: 5 }),
  inFlight: disjoint,
  stream: fc.integer({ min: 1, max: 90 }),
  window: fc.integer({ min: 1, max: 40 }),
  fetchMax: fc.integer({ min: 1, max: 16 }),
});

test("every plan fetches what is missing, once, and no more than the window", () => {
  fc.assert(
    fc.property(question, (asked) => {
      const fetches = plan(asked);
      const fetched = fetches.flatMap(numbers);
      const have = new Set([...asked.cached, ...asked.inFlight].flatMap(numbers));
      const demand = numbers(asked.want).filter((b) => b < asked.stream && !have.has(b));
      const first = demand[0];
      if (first === undefined) {
        expect(fetches).toEqual([]);
        return;
      }
      expect(new Set(fetched).size).toBe(fetched.length);
      expect(fetched.filter((block) => have.has(block))).toEqual([]);
      expect(demand.filter((block) => !fetched.includes(block))).toEqual([]);
      expect(fetched).toEqual(fetched.toSorted((a, b) => a - b));
      expect(fetched[0]).toBe(first);
      const limit = Math.min(
        Math.max(first + asked.window, (demand.at(-1) ?? 0) + 1),
        asked.stream,
      );
      expect(Math.max(...fetched)).toBeLessThan(limit);
      for (const [from, end] of fetches) {
        expect(Number.isInteger(from) && Number.isInteger(end)).toBe(true);
        expect(end - from).toBeGreaterThan(0);
        expect(end - from).toBeLessThanOrEqual(asked.fetchMax);
      }
    }),
    { numRuns: fuzzRuns(1000) },
  );
});

test("minus is the difference of two sets of blocks, in order", () => {
  fc.assert(
    fc.property(disjoint, fc.array(span, { maxLength: 5 }), (from, taken) => {
      const sorted = from.toSorted((a, b) => a[0] - b[0]);
      const left = minus(sorted.map(inBytes), taken.map(inBytes)).map(inBlocks);
      const cut = new Set(taken.flatMap(numbers));
      expect(left.flatMap(numbers)).toEqual(sorted.flatMap(numbers).filter((b) => !cut.has(b)));
      expect(left.every(([first, end]) => end > first)).toBe(true);
    }),
    { numRuns: fuzzRuns(500) },
  );
});
