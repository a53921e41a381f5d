// SPDX-License-Identifier: Apache-2.0
// What a plan must hold for any cache, any flights and any request; and the picture in the
// planner's header as examples. Numbers are 4 KiB blocks.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BlockSet } from "../../../src/cache/block-set.ts";
import { rawChunkMap } from "../../../src/image/chunk-map.ts";
import {
  type FillQuestion,
  type Holdings,
  minus,
  planAhead,
  planFill,
} from "../../../src/planner/plan-fill.ts";
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
  readonly gap?: number;
  /** Of stored blocks, how far the last fetch may reach because of read-ahead. */
  readonly extra?: number;
  /** Blocks that no image vouches for. */
  readonly untrusted?: readonly Span[];
}

function holdings(asked: Omit<Asked, "want">): Holdings {
  const stream = asked.stream ?? 100;
  const blocks = new BlockSet(stream * BLOCK_BYTES);
  for (const span of asked.cached ?? []) blocks.add(inBytes(span));
  const raw = rawChunkMap(stream * BLOCK_BYTES);
  const untrusted = new Set((asked.untrusted ?? []).flatMap(numbers));
  const cut: typeof raw.cut = (extent, limits) => {
    const head = raw.cut(extent, limits);
    const count = numbers(inBlocks(head)).findIndex((block) => untrusted.has(block));
    return count === -1 ? head : { ...head, length: count * BLOCK_BYTES };
  };
  return {
    map: { ...raw, cut },
    fetchMax: {
      logicalBytesMax: (asked.fetchMax ?? 100) * BLOCK_BYTES,
      storedBytesMax: Number.POSITIVE_INFINITY,
    },
    streamEnd: stream * BLOCK_BYTES,
    missing: (extent) => blocks.missing(extent),
    inFlight: (asked.inFlight ?? []).map(inBytes),
    gapBytes: (asked.gap ?? 0) * BLOCK_BYTES,
  };
}

function question(asked: Asked): FillQuestion {
  return {
    ...holdings(asked),
    want: inBytes(asked.want),
    windowBytes: (asked.window ?? 10) * BLOCK_BYTES,
    extraStoredMax: (asked.extra ?? Infinity) * BLOCK_BYTES,
  };
}

function plan(asked: Asked): Span[] {
  return planFill(question(asked)).fetches.map(inBlocks);
}

function ahead(extent: Span, asked: Omit<Asked, "want">, pieceMax = 100, alignBlocks = 0): Span[] {
  const storedBytesMax = pieceMax * BLOCK_BYTES;
  const alignBytes = Math.max(1, alignBlocks * BLOCK_BYTES);
  const limits = { logicalBytesMax: Number.POSITIVE_INFINITY, storedBytesMax, alignBytes };
  return planAhead(inBytes(extent), holdings(asked), limits).map(inBlocks);
}

test("pieces that peers share end where theirs do", () => {
  expect(ahead([5, 30], {}, 8, 8)).toEqual([
    [5, 8],
    [8, 16],
    [16, 24],
    [24, 30],
  ]);
});

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
      [8, 9],
    ]);
  });

  test("a request that one fetch does not carry is not read ahead of in its own fetches", () => {
    expect(plan({ want: [0, 4], fetchMax: 4 })).toEqual([[0, 4]]);
    expect(plan({ want: [0, 5], fetchMax: 4 })).toEqual([
      [0, 4],
      [4, 5],
    ]);
  });

  test("a request is read ahead of as far as a background request may carry, never cut by it", () => {
    expect(plan({ want: [5, 6], extra: 4 })).toEqual([[5, 9]]);
    expect(plan({ want: [5, 11], extra: 4 })).toEqual([[5, 11]]);
    expect(plan({ want: [5, 8], cached: [[6, 7]], extra: 4 })).toEqual([
      [5, 6],
      [7, 11],
    ]);
  });

  test("a request that ends in cached bytes is not read ahead of", () => {
    expect(plan({ want: [0, 4], cached: [[2, 4]] })).toEqual([[0, 2]]);
  });
});

describe("a gap between two parts of a request", () => {
  const cached: Span[] = [[13, 15]];

  test("is fetched along when it is no longer than the link makes it cheap", () => {
    expect(plan({ want: [10, 18], cached, window: 1, gap: 2 })).toEqual([[10, 18]]);
    expect(plan({ want: [10, 18], cached, window: 1, gap: 1 })).toEqual([
      [10, 13],
      [15, 18],
    ]);
  });

  test("is not fetched along when any of it is in flight", () => {
    const asked = { want: [10, 18], cached: [[14, 15]], inFlight: [[13, 14]] } as const;
    expect(plan({ ...asked, window: 1, gap: 8 })).toEqual([
      [10, 13],
      [15, 18],
    ]);
  });

  test("that is cached and that no image vouches for any more fails no reader of its neighbours", () => {
    const asked = { want: [10, 18], cached, untrusted: [[14, 15]], gap: 8 } as const;
    const { fetches, refused } = planFill(question({ ...asked, window: 1 }));
    expect([fetches.map(inBlocks), refused]).toEqual([
      [
        [10, 13],
        [15, 18],
      ],
      undefined,
    ]);
  });

  test("is left out where the length of one fetch cuts it: it spares no request", () => {
    expect(plan({ want: [10, 18], cached, window: 1, gap: 2, fetchMax: 4 })).toEqual([
      [10, 13],
      [15, 18],
    ]);
    expect(plan({ want: [10, 18], cached, window: 1, gap: 2, fetchMax: 1 })).toEqual(
      [10, 11, 12, 15, 16, 17].map((at) => [at, at + 1]),
    );
  });
});

describe("read-ahead", () => {
  test("is what nobody has or brings, in pieces", () => {
    const asked = { cached: [[12, 14]], inFlight: [[17, 18]] } as const;
    expect(ahead([10, 24], asked, 4)).toEqual([
      [10, 12],
      [14, 17],
      [18, 22],
      [22, 24],
    ]);
  });

  test("is nothing where all is cached or under way", () => {
    expect(ahead([10, 20], { cached: [[0, 15]], inFlight: [[15, 40]] })).toEqual([]);
  });

  test("ends with the stream", () => {
    expect(ahead([95, 140], {})).toEqual([[95, 100]]);
    expect(ahead([120, 140], {})).toEqual([]);
  });

  test("passes over small gaps, as demand does", () => {
    expect(ahead([10, 20], { cached: [[14, 15]], gap: 1 })).toEqual([[10, 20]]);
  });

  test("leaves out what may not be served, and what follows it up to the next cached part", () => {
    const asked = { untrusted: [[12, 13]], cached: [[16, 18]] } as const;
    expect(ahead([10, 22], asked)).toEqual([
      [10, 12],
      [18, 22],
    ]);
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
const anyQuestion = fc.record({
  want: span,
  cached: fc.array(span, { maxLength: 5 }),
  inFlight: disjoint,
  stream: fc.integer({ min: 1, max: 90 }),
  window: fc.integer({ min: 1, max: 40 }),
  fetchMax: fc.integer({ min: 1, max: 16 }),
});

test("every plan fetches what is missing, once, and no more than the window", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
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
