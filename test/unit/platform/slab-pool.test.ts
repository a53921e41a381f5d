// SPDX-License-Identifier: Apache-2.0
// The bound on bytes in flight: never more slabs than allowed, and none lost.

import { describe, expect, test } from "vitest";
import { SlabPool } from "../../../src/platform/slab-pool.ts";

function pool(slabsMax: number): { pool: SlabPool; made: number[] } {
  const made: number[] = [];
  const allocate = (bytes: number): Uint8Array => {
    made.push(bytes);
    return new Uint8Array(bytes);
  };
  return { pool: new SlabPool({ slabBytes: 4096, slabsMax, allocate }), made };
}

describe("a slab pool", () => {
  test("makes slabs on first use and then keeps them", () => {
    const { pool: slabs, made } = pool(2);
    expect(made).toEqual([]);
    const first = slabs.tryAcquire();
    if (first !== undefined) slabs.release(first);
    expect(slabs.tryAcquire()).toBe(first);
    expect(made).toEqual([4096]);
  });

  test("lends no more than it may, and again what is given back", () => {
    const { pool: slabs, made } = pool(2);
    const lent = [slabs.tryAcquire(), slabs.tryAcquire()];
    expect(slabs.tryAcquire()).toBeUndefined();
    expect([slabs.lentCount, slabs.lentBytes, slabs.bytesMax]).toEqual([2, 8192, 8192]);
    if (lent[0] !== undefined) slabs.release(lent[0]);
    expect(slabs.lentBytes).toBe(4096);
    expect(slabs.tryAcquire()).toBe(lent[0]);
    expect(made).toEqual([4096, 4096]);
  });

  test("gives idle slabs up for a larger one", () => {
    const { pool: slabs, made } = pool(2);
    const [one, two] = [slabs.tryAcquire(), slabs.tryAcquire()];
    if (one !== undefined) slabs.release(one);
    expect(slabs.tryAcquire(8192)).toBeUndefined();
    if (two !== undefined) slabs.release(two);
    expect(slabs.tryAcquire(8192)?.bytes).toHaveLength(8192);
    expect(made.at(-1)).toBe(8192);
  });

  test("lends what is larger than all of it when nothing else is lent", () => {
    const { pool: slabs } = pool(1);
    const large = slabs.tryAcquire(10_000);
    expect(large?.bytes).toHaveLength(16_384);
    expect(slabs.tryAcquire()).toBeUndefined();
  });

  test("a slab given back twice is a bug", () => {
    const { pool: slabs } = pool(1);
    const slab = slabs.tryAcquire();
    if (slab === undefined) throw new Error("it has one");
    slabs.release(slab);
    expect(() => slabs.release(slab)).toThrow("given back once");
  });

  test("a pool of none is a bug", () => {
    expect(() => pool(0)).toThrow("at least one");
  });
});
