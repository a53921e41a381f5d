// SPDX-License-Identifier: Apache-2.0
// Turns: a place at the host and a slab. Who gets them in which order is pick-next's to say; here
// is what waiting, promotion, giving up and short memory do.

import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { FetchQueue, Turn, type TurnRequest } from "../../../src/flow/fetch-queue.ts";
import { SlabPool, type Slab } from "../../../src/platform/slab-pool.ts";
import { MIB, type Urgency } from "../../../src/units.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { codeOf } from "../../support/fault-code.ts";
import { turns } from "../../support/turns.ts";

const SLAB = 4096;

interface Asked {
  readonly turn: Turn;
  slab: Slab | undefined;
  error: unknown;
  abort(): void;
  readonly signal: AbortSignal;
}

class Rig {
  readonly slabs: SlabPool;
  readonly queue: FetchQueue;
  readonly granted: string[] = [];
  readonly clock = new FakeClock();
  isOutOfMemory = false;

  constructor(options: { slabsMax?: number; requestsPerHost?: number } = {}) {
    const { slabsMax = 4, requestsPerHost = 8 } = options;
    const allocate = (bytes: number): Uint8Array => {
      if (this.isOutOfMemory) throw new RangeError("no memory");
      return new Uint8Array(bytes);
    };
    this.slabs = new SlabPool({ slabBytes: SLAB, slabsMax, allocate });
    this.queue = new FetchQueue(this.slabs, this.clock, { requestsPerHost });
  }

  ask(name: string, urgency: Urgency, more: Partial<TurnRequest> = {}): Asked {
    const turn = new Turn({
      host: "a",
      urgency,
      deadlineMs: 100,
      bytes: 10,
      slabBytes: SLAB,
      group: { name },
      airBytes: () => 2 * MIB,
      ...more,
    });
    const controller = new AbortController();
    const { signal } = controller;
    const abort = (): void => controller.abort(new DaemonError({ code: "cancelled", what: name }));
    const asked: Asked = { turn, slab: undefined, error: undefined, abort, signal };
    this.queue.take(turn, signal).then(
      (slab) => {
        asked.slab = slab;
        this.granted.push(name);
      },
      (error: unknown) => {
        asked.error = error;
      },
    );
    return asked;
  }

  async end({ turn, slab }: Asked): Promise<void> {
    if (slab === undefined) throw new Error("it has had no turn");
    this.queue.release(turn, slab);
    await turns(1);
  }
}

describe("a turn", () => {
  test("is granted at once where there is room, and leaves nothing behind", async () => {
    const rig = new Rig();
    const one = rig.ask("one", "demand");
    await turns(1);
    expect([rig.granted, rig.queue.isShort, rig.slabs.lentCount]).toEqual([["one"], false, 1]);
    expect(getEventListeners(one.signal, "abort")).toEqual([]);
    await rig.end(one);
    expect(rig.slabs.lentCount).toBe(0);
  });

  test("that demand waits for overtakes read-ahead and prefetch that came before it", async () => {
    const rig = new Rig({ requestsPerHost: 1 });
    const first = rig.ask("first", "demand");
    rig.ask("prefetch", "prefetch");
    rig.ask("ahead", "ahead");
    rig.ask("demand", "demand");
    await turns(1);
    await rig.end(first);
    expect(rig.granted).toEqual(["first", "demand"]);
  });

  test("frees its place at the host when its request ends, and its memory when it is released", async () => {
    const rig = new Rig({ requestsPerHost: 1, slabsMax: 2 });
    const one = rig.ask("one", "demand");
    rig.ask("two", "demand");
    await turns(1);
    rig.queue.requestEnded(one.turn);
    await turns(1);
    expect([rig.granted, rig.slabs.lentCount]).toEqual([["one", "two"], 2]);
    // Once is enough.
    rig.queue.requestEnded(one.turn);
    rig.ask("three", "demand");
    await rig.end(one);
    expect([rig.granted.length, rig.queue.isShort]).toEqual([2, true]);
  });

  test("of one host does not wait for another host's place", async () => {
    const rig = new Rig({ requestsPerHost: 1 });
    rig.ask("one", "demand");
    rig.ask("two", "demand");
    rig.ask("elsewhere", "prefetch", { host: "b" });
    await turns(1);
    expect(rig.granted).toEqual(["one", "elsewhere"]);
  });
});

test("who comes when more is known of the link does not overtake who waits", async () => {
  const rig = new Rig();
  let airBytes = 1;
  const by = { bytes: MIB, airBytes: () => airBytes };
  const first = rig.ask("first", "ahead", by);
  rig.ask("early", "ahead", by);
  await turns(1);
  airBytes = 2 * MIB;
  rig.ask("late", "ahead", by);
  await turns(1);
  expect(rig.granted).toEqual(["first", "early", "late"]);
  await rig.end(first);
});

describe("promotion", () => {
  test("lets a reader who waits for queued read-ahead overtake other read-ahead", async () => {
    const rig = new Rig({ requestsPerHost: 1 });
    const first = rig.ask("first", "demand");
    rig.ask("early", "ahead");
    const wanted = rig.ask("wanted", "prefetch", { deadlineMs: 900 });
    await turns(1);
    rig.queue.promote(wanted.turn, 500);
    expect([wanted.turn.urgency, wanted.turn.deadlineMs]).toEqual(["demand", 500]);
    await rig.end(first);
    expect(rig.granted).toEqual(["first", "wanted"]);
  });

  test("grants at once what only demand may have", async () => {
    const rig = new Rig({ requestsPerHost: 3 });
    rig.ask("one", "ahead");
    const two = rig.ask("two", "ahead");
    await turns(1);
    expect(rig.granted).toEqual(["one"]);
    rig.queue.promote(two.turn, 500);
    await turns(1);
    expect(rig.granted).toEqual(["one", "two"]);
  });

  test("never puts a deadline off", () => {
    const rig = new Rig();
    const { turn } = rig.ask("one", "demand", { deadlineMs: 300 });
    rig.queue.promote(turn, 900);
    expect(turn.deadlineMs).toBe(300);
    rig.queue.promote(turn, 200);
    expect(turn.deadlineMs).toBe(200);
  });
});

describe("giving up", () => {
  test("a turn that waits is gone, and who waited behind it goes", async () => {
    const rig = new Rig({ slabsMax: 4 });
    rig.ask("one", "demand");
    const large = rig.ask("large", "demand", { slabBytes: 4 * SLAB });
    rig.ask("small", "demand", { deadlineMs: 200 });
    await turns(1);
    expect([rig.granted, rig.queue.isWaiting(large.turn)]).toEqual([["one"], true]);
    large.abort();
    await turns(1);
    expect([rig.granted, codeOf(large.error)]).toEqual([["one", "small"], "cancelled"]);
    expect([rig.queue.isWaiting(large.turn), rig.queue.isShort]).toEqual([false, false]);
  });

  test("before it asked: it never waits", async () => {
    const rig = new Rig();
    const signal = AbortSignal.abort(new DaemonError({ code: "stopping" }));
    const { turn } = new Rig().ask("one", "demand");
    const error: unknown = await rig.queue.take(turn, signal).catch((cause: unknown) => cause);
    expect([codeOf(error), rig.queue.isWaiting(turn), rig.slabs.lentCount]).toEqual([
      "stopping",
      false,
      0,
    ]);
  });
});

describe("short memory", () => {
  test("a large slab is not starved by small ones that could go", async () => {
    const rig = new Rig({ slabsMax: 4 });
    const held = [rig.ask("one", "demand"), rig.ask("two", "demand")];
    await turns(1);
    const large = rig.ask("large", "demand", { slabBytes: 4 * SLAB });
    for (const name of ["a", "b", "c"]) rig.ask(name, "demand", { deadlineMs: 200 });
    await turns(1);
    expect(rig.granted).toEqual(["one", "two"]);
    for (const one of held) await rig.end(one);
    expect(rig.granted).toEqual(["one", "two", "large"]);
    await rig.end(large);
    expect(rig.granted.slice(3)).toEqual(["a", "b", "c"]);
  });

  test("one larger than the whole pool goes when nothing else is lent", async () => {
    const rig = new Rig({ slabsMax: 2 });
    const one = rig.ask("one", "demand");
    rig.ask("huge", "prefetch", { slabBytes: 7 * SLAB });
    await turns(1);
    expect(rig.granted).toEqual(["one"]);
    await rig.end(one);
    expect(rig.granted).toEqual(["one", "huge"]);
  });

  test("a quarter of it is kept for demand", async () => {
    const rig = new Rig({ slabsMax: 4 });
    for (const name of ["a", "b", "c", "d"]) rig.ask(name, "ahead");
    await turns(1);
    expect(rig.granted).toEqual(["a", "b", "c"]);
    rig.ask("demand", "demand");
    await turns(1);
    expect(rig.granted).toEqual(["a", "b", "c", "demand"]);
  });

  test("demand is not held up by a background turn that waits for a large slab", async () => {
    const rig = new Rig({ slabsMax: 4 });
    rig.ask("one", "ahead");
    rig.ask("large", "ahead", { slabBytes: 4 * SLAB });
    await turns(1);
    for (const name of ["x", "y", "z"]) rig.ask(name, "demand");
    await turns(1);
    expect(rig.granted).toEqual(["one", "x", "y", "z"]);
  });

  test("that cannot be had fails the turn it is for, and no other", async () => {
    const rig = new Rig({ slabsMax: 4 });
    rig.isOutOfMemory = true;
    const first = rig.ask("first", "demand", { slabBytes: 2 * SLAB });
    await turns(1);
    expect(first.error).toBeInstanceOf(RangeError);
    expect([rig.granted, rig.queue.isWaiting(first.turn)]).toEqual([[], false]);
    expect(getEventListeners(first.signal, "abort")).toEqual([]);
    rig.isOutOfMemory = false;
    rig.ask("again", "demand", { slabBytes: 4 * SLAB });
    await turns(1);
    expect([rig.granted.at(-1), rig.slabs.lentBytes]).toEqual(["again", 4 * SLAB]);
  });
});

test("who reads in order gets an eighth of the memory in one fetch, half of that while others fetch too", async () => {
  const rig = new Rig({ slabsMax: 32 });
  const { queue } = rig;
  expect(queue.orderedBytes).toBe(4 * SLAB);
  const group = { name: "one" };
  const [one] = [rig.ask("one", "ahead", { group }), rig.ask("more of it", "ahead", { group })];
  await turns(1);
  expect(queue.orderedBytes).toBe(4 * SLAB);
  rig.ask("another", "demand");
  await turns(1);
  expect(queue.orderedBytes).toBe(2 * SLAB);
  await rig.end(one);
  expect(queue.orderedBytes).toBe(2 * SLAB);
  expect(new Rig({ slabsMax: 4 }).queue.orderedBytes).toBe(SLAB);
  expect(new Rig({ slabsMax: 1 << 20 }).queue.orderedBytes).toBe(4 * MIB);
});
