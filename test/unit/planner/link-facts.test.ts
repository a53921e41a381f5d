// SPDX-License-Identifier: Apache-2.0

import { describe, expect, test } from "vitest";
import {
  type LinkFacts,
  airBytes,
  backgroundPiece,
  freeBytes,
  fullBytes,
  gapBytes,
  longBytes,
  orderedPiece,
  pieceBytes,
  strayBytes,
} from "../../../src/planner/link-facts.ts";
import { BLOCK_BYTES, KIB, MIB } from "../../../src/units.ts";

/** 1 MB/s and 20 ms, 20 MB/s and 20 ms, 100 MB/s and 20 ms, and a cable to the next machine. */
const slow: LinkFacts = { rttMs: 20, bytesPerMs: 1_000 };
const middle: LinkFacts = { rttMs: 20, bytesPerMs: 20_000 };
const fast: LinkFacts = { rttMs: 20, bytesPerMs: 100_000 };
const near: LinkFacts = { rttMs: 0.2, bytesPerMs: 1_000_000 };

describe("before anything is known of a link", () => {
  test("background requests are what a slow one carries quickly, and little is in the air", () => {
    expect([pieceBytes(undefined), airBytes({ link: undefined, shared: undefined })]).toEqual([
      256 * KIB,
      MIB,
    ]);
  });

  test("no gap is fetched along, and a stray gets its own block", () => {
    expect([gapBytes(undefined), strayBytes(undefined)]).toEqual([0, BLOCK_BYTES]);
  });
});

test("a background request is 50 ms of its link, within 256 KiB and 1 MiB", () => {
  expect([slow, { rttMs: 20, bytesPerMs: 10_000 }, middle, near].map(pieceBytes)).toEqual([
    256 * KIB,
    122 * BLOCK_BYTES,
    244 * BLOCK_BYTES,
    MIB,
  ]);
});

test("a gap is fetched along when it costs less than a quarter of a round trip, 256 KiB at most", () => {
  expect([slow, middle, fast, near].map(gapBytes)).toEqual([
    BLOCK_BYTES,
    24 * BLOCK_BYTES,
    256 * KIB,
    12 * BLOCK_BYTES,
  ]);
  expect(gapBytes({ rttMs: 1, bytesPerMs: 1_000 })).toBe(0);
});

test("a stray gets a quarter of a round trip of what follows it, a block at least", () => {
  expect([slow, middle, fast].map(strayBytes)).toEqual([
    BLOCK_BYTES,
    24 * BLOCK_BYTES,
    122 * BLOCK_BYTES,
  ]);
  expect(strayBytes({ rttMs: 0.1, bytesPerMs: 100 })).toBe(BLOCK_BYTES);
});

test("another request sets out when a round trip and 15 ms are still to come, within 1 and 16 MiB", () => {
  const most = (link: LinkFacts): number => airBytes({ link, shared: undefined });
  expect([slow, middle, fast].map(most)).toEqual([MIB, MIB, 3_500_000]);
  expect(most({ rttMs: 300, bytesPerMs: 100_000 })).toBe(16 * MIB);
});

test("what is free behind a miss is a round trip and a half of the link, 50 ms at most", () => {
  expect([undefined, slow, fast].map(freeBytes)).toEqual([0, 30_000, 3_000_000]);
  expect(freeBytes({ rttMs: 300, bytesPerMs: 1_000 })).toBe(50_000);
});

test("a reader in order is to have two round trips and 50 ms of the link ahead of him", () => {
  const full = (link: LinkFacts): number => fullBytes({ link, shared: undefined });
  expect([slow, middle, fast].map(full)).toEqual([90_000, 1_800_000, 9_000_000]);
  expect(fullBytes({ link: undefined, shared: undefined })).toBe(0);
});

test("what he gets in one request is 50 ms of the link, as far as memory allows, 1 MiB at least", () => {
  const most = { logicalBytesMax: 4 * MIB, storedBytesMax: 4 * MIB };
  const stored = (link: LinkFacts | undefined): number =>
    orderedPiece({ link, shared: undefined }, most).storedBytesMax;
  const faster: LinkFacts = { rttMs: 20, bytesPerMs: 50_000 };
  expect([undefined, slow, middle, faster, fast].map(stored)).toEqual([
    MIB,
    MIB,
    MIB,
    610 * BLOCK_BYTES,
    4 * MIB,
  ]);
  expect(
    orderedPiece({ link: fast, shared: undefined }, { ...most, storedBytesMax: 256 * KIB }),
  ).toMatchObject({ storedBytesMax: 256 * KIB });
  const shared = { alignBytes: 4 * MIB, preferBytes: 16 * MIB };
  expect(orderedPiece({ link: fast, shared }, most)).toEqual(
    backgroundPiece({ link: fast, shared }, most),
  );
});

test("one request is for what several ask for where requests are most of the cost", () => {
  const shared = { alignBytes: 4 * MIB, preferBytes: 16 * MIB };
  const ways = [undefined, fast, near].map((link) => longBytes({ link, shared: undefined }));
  expect([...ways, longBytes({ link: near, shared })]).toEqual([0, 0, 64 * MIB, 0]);
});

test("what peers share goes out in their pieces, more of it at once, and a reader in order gets as much", () => {
  const way = { link: fast, shared: { alignBytes: 4 * MIB, preferBytes: 16 * MIB } };
  const most = { logicalBytesMax: MIB, storedBytesMax: MIB };
  expect(backgroundPiece(way, most)).toEqual({
    logicalBytesMax: 8 * MIB,
    storedBytesMax: 4 * MIB,
    alignBytes: 4 * MIB,
  });
  expect([airBytes(way), fullBytes(way)]).toEqual([28 * MIB, 16 * MIB]);
  expect(backgroundPiece({ ...way, shared: undefined }, most)).toEqual({
    logicalBytesMax: MIB,
    storedBytesMax: MIB,
    alignBytes: 1,
  });
});

test("what is fetched is whole blocks, whatever the link", () => {
  for (let rate = 1; rate < 2 ** 22; rate = rate * 3 + 1) {
    const link = { rttMs: 7.3, bytesPerMs: rate };
    for (const bytes of [pieceBytes(link), gapBytes(link), strayBytes(link)]) {
      expect(bytes % BLOCK_BYTES).toBe(0);
    }
  }
});
