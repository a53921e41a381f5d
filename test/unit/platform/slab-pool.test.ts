// SPDX-License-Identifier: Apache-2.0
// The bound on bytes in flight: never more slabs than allowed, none lost, and no two that overlap.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { SlabPool, type Slab } from "../../../src/platform/slab-pool.ts";
import { fuzzRuns } from "../../support/fuzz-runs.ts";

const SLAB = 4096;

function pool(slabsMax: number): { pool: SlabPool; made: number[] } {
  const made: number[] = [];
  const allocate = (bytes: number): Uint8Array => {
    made.push(bytes);
    return new Uint8Array(bytes);
  };
  return { pool: new SlabPool({ slabBytes: SLAB, slabsMax, allocate }), made };
}

function lend(slabs: SlabPool, bytes?: number): Slab {
  const slab = slabs.tryAcquire(bytes);
  if (slab === undefined) throw new Error("it has room");
  return slab;
}

describe("a slab pool", () => {
  test("takes memory on first use, once", () => {
    const { pool: slabs, made } = pool(2);
    expect(made).toEqual([]);
    slabs.release(lend(slabs));
    lend(slabs);
    lend(slabs);
    expect(made).toEqual([2 * SLAB]);
  });

  test("lends no more than it may, and again what is given back", () => {
    const { pool: slabs } = pool(2);
    const [first] = [lend(slabs), lend(slabs)];
    expect([slabs.tryAcquire(), slabs.hasRoom(1)]).toEqual([undefined, false]);
    expect([slabs.lentCount, slabs.lentBytes, slabs.bytesMax]).toEqual([2, 2 * SLAB, 2 * SLAB]);
    slabs.release(first);
    expect([slabs.lentBytes, slabs.hasRoom(SLAB)]).toEqual([SLAB, true]);
    expect(lend(slabs).bytes.byteOffset).toBe(first.bytes.byteOffset);
  });

  test("gives whole slabs in a row, the lowest there are: touched memory is used again", () => {
    const { pool: slabs } = pool(6);
    const places = [1, SLAB + 1, 1].map((bytes) => lend(slabs, bytes));
    expect(places.map(({ bytes }) => [bytes.byteOffset / SLAB, bytes.length / SLAB])).toEqual([
      [0, 1],
      [1, 2],
      [3, 1],
    ]);
    for (const slab of places.slice(0, 2)) slabs.release(slab);
    expect(lend(slabs, 3 * SLAB).bytes.byteOffset).toBe(0);
    expect(slabs.hasRoom(3 * SLAB)).toBe(false);
    expect(slabs.hasRoom(2 * SLAB)).toBe(true);
  });

  test("has memory made before it is first used, as much as is asked for, and no more than once", () => {
    const made: [number, number][] = [];
    const slabs = new SlabPool({
      slabBytes: SLAB,
      slabsMax: 6,
      allocate: (bytes) => new Uint8Array(bytes),
      populate: ({ byteOffset, length }) => {
        made.push([byteOffset, length]);
      },
    });
    slabs.release(lend(slabs, SLAB + 100));
    slabs.release(lend(slabs, SLAB + 100));
    expect(made).toEqual([[0, SLAB + 100]]);
    slabs.release(lend(slabs, 3 * SLAB));
    expect(made.slice(1)).toEqual([[SLAB, 2 * SLAB]]);
    slabs.warmUp();
    lend(slabs, 3 * SLAB);
    lend(slabs, 1);
    expect(made.slice(2)).toEqual([[3 * SLAB, 1]]);
  });

  test("lends what is larger than all of it when nothing else is lent, in memory of its own", () => {
    const { pool: slabs, made } = pool(2);
    const large = lend(slabs, 10_000);
    expect([large.bytes.length, made]).toEqual([3 * SLAB, [3 * SLAB]]);
    expect(slabs.tryAcquire()).toBeUndefined();
    slabs.release(large);
    const small = lend(slabs);
    expect(slabs.tryAcquire(10_000)).toBeUndefined();
    expect(slabs.hasRoom(10_000)).toBe(false);
    slabs.release(small);
    expect(slabs.hasRoom(10_000)).toBe(true);
  });

  test("a slab given back twice is a bug", () => {
    const { pool: slabs } = pool(1);
    const slab = lend(slabs);
    slabs.release(slab);
    expect(() => slabs.release(slab)).toThrow("given back once");
  });

  test("a pool of none is a bug", () => {
    expect(() => pool(0)).toThrow("at least one");
  });
});

test("whatever is asked for and given back, no byte is lent twice and none is lost", () => {
  const step = fc.record({ bytes: fc.integer({ min: 1, max: 5 * SLAB }), gives: fc.nat(20) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { pool: slabs } = pool(8);
      const lent: Slab[] = [];
      for (const { bytes, gives } of steps) {
        const [back] = lent.splice(gives, 1);
        if (back !== undefined) slabs.release(back);
        const hadRoom = slabs.hasRoom(bytes);
        const slab = slabs.tryAcquire(bytes);
        expect(slab !== undefined).toBe(hadRoom);
        if (slab !== undefined) lent.push(slab);
        const inOrder = lent
          .map(({ bytes: one }) => one)
          .toSorted((a, b) => a.byteOffset - b.byteOffset);
        inOrder.forEach((one, index) => {
          const before = inOrder[index - 1];
          expect(one.byteOffset).toBeGreaterThanOrEqual(
            before === undefined ? 0 : before.byteOffset + before.length,
          );
        });
      }
      for (const slab of lent) slabs.release(slab);
      expect([slabs.lentBytes, slabs.hasRoom(8 * SLAB)]).toEqual([0, true]);
    }),
    { numRuns: fuzzRuns(300) },
  );
});
