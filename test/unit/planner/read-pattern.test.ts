// SPDX-License-Identifier: Apache-2.0
// What readers are seen to be doing, and what is to be fetched before they ask. Numbers are blocks.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type PatternKind, ReadPattern } from "../../../src/planner/read-pattern.ts";
import { BLOCK_BYTES, type Extent, MIB, extentEnd } from "../../../src/units.ts";
import { blocks } from "../../support/flow-rig.ts";
import { fuzzRuns } from "../../support/fuzz-runs.ts";

const STREAM = 100_000;
const LIMITS = {
  windowBytes: 8 * BLOCK_BYTES,
  aheadBytesMax: 32 * BLOCK_BYTES,
  streamEnd: STREAM * BLOCK_BYTES,
  seesHits: false,
};
/** Further than one who reads in order may pass over, in either direction. */
const FAR = 1_000;

interface Seen {
  readonly kind: PatternKind;
  readonly ahead: readonly [first: number, end: number][];
}

class Reader {
  readonly pattern: ReadPattern;
  isHeld: (extent: Extent) => boolean = () => false;
  isCached: (extent: Extent) => boolean = () => true;

  constructor(limits: Partial<typeof LIMITS> = {}) {
    this.pattern = new ReadPattern({ ...LIMITS, ...limits });
  }

  /** A READ of blocks [first, end) of which the engine fetches up to `fetched` along with it. */
  read(first: number, end = first + 1, fetched = end): Seen {
    const { track, ahead } = this.pattern.note(blocks(first, end), this);
    this.pattern.planned(track, fetched * BLOCK_BYTES);
    const inBlocks = ({ offset, length }: Extent): [number, number] => [
      offset / BLOCK_BYTES,
      (offset + length) / BLOCK_BYTES,
    ];
    return { kind: track.kind, ahead: ahead.map(inBlocks) };
  }
}

describe("a first READ", () => {
  test("is of a reader who waits for nothing but its bytes, and asks for nothing ahead", () => {
    expect(new Reader().read(10)).toEqual({ kind: "first", ahead: [] });
  });
});

describe("a reader in order", () => {
  test("gets windows that double, up to the largest, each topped up by whole first windows when half of it is used", () => {
    const reader = new Reader();
    reader.read(0, 1, 8);
    expect(reader.read(1)).toEqual({ kind: "sequential", ahead: [] });
    expect(reader.read(2).ahead).toEqual([]);
    expect(reader.read(3).ahead).toEqual([[8, 16]]);
    expect(reader.read(8, 9).ahead).toEqual([[16, 40]]);
    expect(reader.read(11, 12).ahead).toEqual([]);
    expect(reader.read(20, 28).ahead).toEqual([[40, 56]]);
    // It does not grow any more.
    expect(reader.read(44, 45).ahead).toEqual([[56, 72]]);
  });

  test("gets what keeps the link full once he has read a whole window, not before", () => {
    const pattern = new ReadPattern({ ...LIMITS, aheadBytesMax: 128 * BLOCK_BYTES });
    const ahead = (first: number, end: number): number[] =>
      pattern
        .note(blocks(first, end), new Reader(), 100 * BLOCK_BYTES)
        .ahead.map(({ length }) => length / BLOCK_BYTES);
    expect([ahead(0, 1), ahead(1, 2)]).toEqual([[], [16]]);
    // More than half of the 16 is still ahead of him; then not.
    expect([ahead(2, 8), ahead(10, 11)]).toEqual([[], [88]]);
  });

  test("is known by a READ at the end of what was planned for it, not only at its own end", () => {
    const reader = new Reader();
    reader.read(0, 1, 8);
    expect(reader.read(8)).toEqual({ kind: "sequential", ahead: [[9, 25]] });
  });

  test("may pass over the gap between two files, and over what is held", () => {
    const reader = new Reader();
    reader.read(0, 1, 8);
    expect(reader.read(40).kind).toBe("sequential");
    const strayed = new Reader();
    strayed.read(0, 1, 8);
    expect(strayed.read(8 + 33).kind).toBe("first");
    const held = new Reader({ windowBytes: 64 * BLOCK_BYTES, aheadBytesMax: 64 * BLOCK_BYTES });
    held.isHeld = ({ offset, length }) => offset === 8 * BLOCK_BYTES && length === 50 * BLOCK_BYTES;
    held.read(0, 1, 8);
    expect(held.read(58).kind).toBe("sequential");
  });

  test("would wait for what is still to come: who is beyond it is another reader", () => {
    const reader = new Reader({ windowBytes: 64 * BLOCK_BYTES, aheadBytesMax: 64 * BLOCK_BYTES });
    reader.isCached = () => false;
    reader.read(0, 1, 64);
    expect(reader.read(50).kind).toBe("first");
  });

  test("is seen all the way where the kernel asks for what is cached too", () => {
    const reader = new Reader({
      windowBytes: 64 * BLOCK_BYTES,
      aheadBytesMax: 256 * BLOCK_BYTES,
      seesHits: true,
    });
    reader.read(0, 1, 64);
    expect(reader.read(50).kind).toBe("first");
    expect(reader.read(1).kind).toBe("sequential");
  });

  test("has not read what it passed over: many short ways are not a long one", () => {
    const pattern = new ReadPattern({
      ...LIMITS,
      aheadBytesMax: 512 * BLOCK_BYTES,
      seesHits: true,
    });
    const ahead = (at: number): number =>
      pattern
        .note(blocks(at, at + 1), new Reader(), 400 * BLOCK_BYTES)
        .ahead.reduce((sum, { length }) => sum + length / BLOCK_BYTES, 0);
    expect([0, 20, 40].map(ahead)).toEqual([0, 16, 32]);
  });

  test("is read ahead no further than the end of the stream", () => {
    const reader = new Reader({ streamEnd: 12 * BLOCK_BYTES });
    reader.read(0, 1, 8);
    expect(reader.read(8).ahead).toEqual([[9, 12]]);
    expect(reader.read(11).ahead).toEqual([]);
  });

  test("is told apart from others that read in turns elsewhere, each with its own window", () => {
    const reader = new Reader();
    const starts = [0, FAR, 3 * FAR + 7];
    for (const start of starts) expect(reader.read(start, start + 1, start + 8).kind).toBe("first");
    for (const start of starts) {
      const seen = reader.read(start + 8);
      expect(seen).toEqual({
        kind: "sequential",

        ahead: [[start + 9, start + 25]],
      });
    }
  });

  test("is forgotten when 32 others have come since", () => {
    const reader = new Reader();
    reader.read(0, 1, 8);
    // Gaps that grow, and large READs: neither a stride nor strays.
    for (let i = 1; i <= 31; i += 1) reader.read(i * FAR + i * i, i * FAR + i * i + 8);
    expect(reader.read(8).kind).toBe("sequential");
    for (let i = 41; i <= 73; i += 1) reader.read(i * FAR + i * i, i * FAR + i * i + 8);
    expect(reader.read(25).kind).toBe("first");
  });
});

describe("a reader that goes backward", () => {
  test("gets what lies before it, nearest first in 256 KiB steps, from its third READ on", () => {
    const reader = new Reader({
      windowBytes: 128 * BLOCK_BYTES,
      aheadBytesMax: 256 * BLOCK_BYTES,
    });
    reader.read(1000);
    expect(reader.read(999)).toEqual({ kind: "backward", ahead: [] });
    expect(reader.read(998).ahead).toEqual([
      [934, 998],
      [870, 934],
    ]);
    expect(reader.read(870, 871).ahead).toEqual([
      [806, 870],
      [742, 806],
      [678, 742],
      [614, 678],
    ]);
  });

  test("gets no more while less than half of that is used, however often it asks", () => {
    const reader = new Reader({
      windowBytes: 128 * BLOCK_BYTES,
      aheadBytesMax: 4096 * BLOCK_BYTES,
    });
    for (const at of [1000, 999, 998]) reader.read(at);
    for (const at of [997, 980, 950]) expect(reader.read(at).ahead).toEqual([]);
    expect(reader.read(930).ahead).toEqual([
      [806, 870],
      [742, 806],
      [678, 742],
      [674, 678],
    ]);
  });

  test("passes over what it was given, and over nothing else", () => {
    const limits = { windowBytes: 128 * BLOCK_BYTES, aheadBytesMax: 256 * BLOCK_BYTES };
    const way = (reader: Reader): Seen => {
      for (const at of [1000, 999, 998]) reader.read(at);
      return reader.read(900);
    };
    expect(way(new Reader(limits)).kind).toBe("backward");
    const coming = new Reader(limits);
    coming.isCached = () => false;
    expect(way(coming).kind).toBe("first");
    expect(way(new Reader({ ...limits, seesHits: true })).kind).toBe("first");
  });

  test("is not read past the start of the stream", () => {
    const reader = new Reader({
      windowBytes: 128 * BLOCK_BYTES,
      aheadBytesMax: 256 * BLOCK_BYTES,
    });
    reader.read(5);
    reader.read(4);
    expect(reader.read(3).ahead).toEqual([[0, 3]]);
    expect(reader.read(0).ahead).toEqual([]);
  });

  test("who jumps back further than a gap between files is another reader", () => {
    const reader = new Reader();
    reader.read(5000);
    expect(reader.read(5000 - 34).kind).toBe("first");
  });
});

describe("a strided reader", () => {
  test("is known by two equal steps, and gets the next four", () => {
    const reader = new Reader();
    reader.read(0);
    expect(reader.read(FAR).kind).toBe("first");
    expect(reader.read(2 * FAR)).toEqual({
      kind: "strided",

      ahead: [3, 4, 5, 6].map((step) => [step * FAR, step * FAR + 1]),
    });
  });

  test("may skip what it found cached, and goes on with its stride", () => {
    const reader = new Reader();
    for (const step of [0, 1, 2]) reader.read(step * FAR);
    expect(reader.read(7 * FAR).ahead[0]).toEqual([8 * FAR, 8 * FAR + 1]);
  });

  test("backward has a stride as well; none of it lies outside the stream", () => {
    const reader = new Reader();
    reader.read(4 * FAR);
    reader.read(3 * FAR);
    expect(reader.read(2 * FAR).ahead).toEqual([
      [FAR, FAR + 1],
      [0, 1],
    ]);
  });

  test("is not one whose steps lie within what is held: that one reads in order", () => {
    const reader = new Reader({ windowBytes: 64 * BLOCK_BYTES, aheadBytesMax: 256 * BLOCK_BYTES });
    reader.isHeld = () => true;
    reader.read(0, 1, 64);
    reader.read(64, 65, 192);
    expect(reader.read(128, 129).kind).toBe("sequential");
  });

  test("who steps out of it is a stranger again", () => {
    const reader = new Reader();
    for (const step of [0, 1, 2]) reader.read(step * FAR);
    expect(reader.read(2 * FAR + 333).kind).toBe("first");
  });

  test("steps of more than 64 MiB are jumps", () => {
    const reader = new Reader({ streamEnd: 1e12 });
    const far = (64 * MIB) / BLOCK_BYTES + 1;
    for (const step of [0, 1, 2]) expect(reader.read(step * far).kind).toBe("first");
  });
});

describe("a reader that jumps about", () => {
  const jumps = [50_000, 1_000, 80_000, 20_500, 66_000, 9_000];

  test("is random from its fourth small READ that continues nothing", () => {
    const reader = new Reader();
    const kinds = jumps.map((at) => reader.read(at).kind);
    expect(kinds).toEqual(["first", "first", "first", "random", "random", "random"]);
    expect(reader.pattern.isRandom).toBe(true);
  });

  test("is not random when its READs are large: they have the kernel's own read-ahead", () => {
    const reader = new Reader();
    for (const at of jumps) expect(reader.read(at, at + 5).kind).toBe("first");
  });

  test("who reads on in order is believed within three READs", () => {
    const reader = new Reader();
    for (const at of jumps) reader.read(at);
    for (const step of [1, 2]) expect(reader.read(9_000 + step).kind).toBe("sequential");
    expect(reader.pattern.isRandom).toBe(false);
  });
});

test("whatever is read, what is planned ahead lies in the stream and is bounded by the windows", () => {
  const read = fc.tuple(fc.nat(400), fc.integer({ min: 1, max: 40 }));
  fc.assert(
    fc.property(fc.array(read, { maxLength: 60 }), fc.array(fc.boolean()), (reads, held) => {
      const streamEnd = 440 * BLOCK_BYTES;
      const pattern = new ReadPattern({ ...LIMITS, streamEnd });
      let asked = 0;
      for (const [first, length] of reads) {
        const extent = blocks(first, first + length);
        const chance = (): boolean => held[(asked += 1)] === true;
        const { track, ahead } = pattern.note(extent, { isHeld: chance, isCached: chance });
        for (const one of ahead) {
          expect(one.length).toBeGreaterThan(0);
          expect(one.offset >= 0 && extentEnd(one) <= streamEnd).toBe(true);
        }
        const bytes = ahead.reduce((sum, one) => sum + one.length, 0);
        const isStrided = track.kind === "strided";
        expect(bytes).toBeLessThanOrEqual(isStrided ? 4 * extent.length : LIMITS.aheadBytesMax);
        expect(track.windowBytes).toBeLessThanOrEqual(LIMITS.aheadBytesMax);
        expect(track.aheadEnd).toBeGreaterThanOrEqual(extentEnd(track.last));
      }
    }),
    { numRuns: fuzzRuns(500) },
  );
});
