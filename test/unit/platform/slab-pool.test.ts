// SPDX-License-Identifier: Apache-2.0
// The bound on bytes in flight: never more slabs than allowed, none lost, first come first served.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { SlabPool } from "../../../src/platform/slab-pool.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { turns } from "../../support/turns.ts";

function pool(slabsMax: number): { pool: SlabPool; made: number[] } {
  const made: number[] = [];
  const allocate = (bytes: number): Uint8Array => {
    made.push(bytes);
    return new Uint8Array(bytes);
  };
  return { pool: new SlabPool({ slabBytes: 4096, slabsMax, allocate }), made };
}
const never = new AbortController().signal;

describe("a slab pool", () => {
  test("makes slabs on first use and then keeps them", async () => {
    const { pool: slabs, made } = pool(2);
    expect(made).toEqual([]);
    const first = await slabs.acquire(never);
    slabs.release(first);
    expect(await slabs.acquire(never)).toBe(first);
    expect(made).toEqual([4096]);
  });

  test("lets waiters in one by one, in the order they came", async () => {
    const { pool: slabs, made } = pool(1);
    const slab = await slabs.acquire(never);
    const order: number[] = [];
    for (const n of [1, 2, 3]) {
      void slabs.acquire(never).then((granted) => {
        order.push(n);
        slabs.release(granted);
      });
    }
    await turns();
    expect([order, slabs.waitingCount]).toEqual([[], 3]);
    slabs.release(slab);
    await turns();
    expect([order, made.length, slabs.lentCount]).toEqual([[1, 2, 3], 1, 0]);
  });

  test("a waiter that is aborted leaves the queue with the signal's reason", async () => {
    const { pool: slabs } = pool(1);
    const slab = await slabs.acquire(never);
    const abort = new AbortController();
    const waiting = rejectionOf(slabs.acquire(abort.signal));
    abort.abort(new DaemonError({ code: "stopping" }));
    expect(await waiting).toBe("stopping");
    slabs.release(slab);
    expect([slabs.waitingCount, slabs.lentCount]).toEqual([0, 0]);
  });

  test("an abort after the slab was granted neither takes nor loses it", async () => {
    const { pool: slabs } = pool(1);
    const slab = await slabs.acquire(never);
    const abort = new AbortController();
    const waiting = slabs.acquire(abort.signal);
    slabs.release(slab);
    abort.abort();
    expect(await waiting).toBe(slab);
    expect(slabs.lentCount).toBe(1);
  });

  test("nobody overtakes who waits for a larger one", async () => {
    const { pool: slabs } = pool(2);
    const [one, two] = [await slabs.acquire(never), await slabs.acquire(never)];
    const order: string[] = [];
    const large = slabs.acquire(never, 8192).then((slab) => (order.push("large"), slab));
    slabs.release(one);
    const small = slabs.acquire(never).then((slab) => (order.push("small"), slab));
    slabs.release(two);
    await turns();
    expect(order).toEqual(["large"]);
    slabs.release(await large);
    await small;
    expect(order).toEqual(["large", "small"]);
  });

  test("an aborted signal takes nothing", async () => {
    const { pool: slabs } = pool(1);
    expect(await rejectionOf(slabs.acquire(AbortSignal.abort()))).toBe("cancelled");
    expect(slabs.lentCount).toBe(0);
  });

  test("a slab given back twice is a bug", async () => {
    const { pool: slabs } = pool(1);
    const slab = await slabs.acquire(never);
    slabs.release(slab);
    expect(() => slabs.release(slab)).toThrow("given back once");
  });

  test("a pool of none is a bug", () => {
    expect(() => pool(0)).toThrow("at least one");
  });
});
