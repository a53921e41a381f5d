// SPDX-License-Identifier: Apache-2.0
// Hosts that fail again and again, ask us to wait, and come back; on a clock of the test's own.
import { expect, it } from "vitest";
import { DaemonError, type Fault } from "../../../../src/errors.ts";
import { type Entry, UpstreamHealth } from "../../../../src/source/registry/upstream-health.ts";
import { registryUpstream } from "../../../../src/source/registry/upstream.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { faultFrom } from "../../../support/faults.ts";

const HOST = registryUpstream("registry.example", "https");
const OTHER = registryUpstream("other.example", "https");
const BROKEN = new DaemonError({ code: "registry_failed", host: "x", status: 500, detail: "y" });
const GONE = new DaemonError({ code: "registry_unreachable", host: "x", detail: "y" });

function start() {
  const clock = new FakeClock();
  const closing = new AbortController();
  const logged: string[] = [];
  const pings: string[] = [];
  const states: string[] = [];
  const alive = { is: false };
  const health = new UpstreamHealth({
    clock,
    log: { debug: () => undefined, warn: (_, text) => void logged.push(text) },
    closing: closing.signal,
    onBreaker: (_, state) => states.push(state),
    ping: ({ name }) => {
      pings.push(`${name} at ${clock.nowMs()}`);
      return Promise.resolve(alive.is);
    },
  });
  const entry = (fields: Partial<Entry> = {}): Entry => ({
    signal: new AbortController().signal,
    deadlineMs: clock.nowMs() + 30_000,
    isAwaited: true,
    hasPeers: false,
    access: () => undefined,
    ...fields,
  });
  const fail = async (times: number): Promise<void> => {
    for (let failed = 0; failed < times; failed += 1) {
      (await health.enter(HOST, entry()))("failed", BROKEN);
    }
  };
  return { clock, closing, logged, pings, states, alive, health, entry, fail };
}

it("is ready until it has failed three times in a row", async () => {
  const { health, fail, entry, logged } = start();
  expect(health.standing(HOST)).toBe("ready");
  await fail(2);
  (await health.enter(HOST, entry()))("served");
  await fail(2);
  expect(health.standing(HOST)).toBe("ready");
  await fail(1);
  expect(health.standing(HOST)).toBe("resting");
  expect(health.standing(OTHER)).toBe("ready");
  expect(logged).toHaveLength(1);
});

it("is pinged in the background, after ever longer rests, until it answers", async () => {
  const { health, fail, pings, alive, clock, entry, logged, states } = start();
  await fail(3);
  await clock.advance(7_000);
  expect(pings).toEqual([2_000, 4_000, 8_000].map((atMs) => `registry.example at ${atMs}`));
  expect(health.standing(HOST)).toBe("resting");
  alive.is = true;
  await clock.advance(8_000);
  expect(health.standing(HOST)).toBe("trial");
  const leave = await health.enter(HOST, entry());
  expect(health.standing(HOST)).toBe("resting");
  leave("served");
  expect(health.standing(HOST)).toBe("ready");
  expect(logged).toHaveLength(2);
  expect(states).toEqual(["open", "half-open", "closed"]);
  expect(clock.pendingCount).toBe(0);
});

it("rests again when its trial fails", async () => {
  const { health, fail, alive, clock } = start();
  await fail(3);
  alive.is = true;
  await clock.advance(1_000);
  expect(health.standing(HOST)).toBe("trial");
  await fail(1);
  expect(health.standing(HOST)).toBe("resting");
});

it("refuses at once what nobody waits for, and says why", async () => {
  const { health, fail, entry } = start();
  await fail(3);
  expect(await faultFrom(health.enter(HOST, entry({ isAwaited: false })))).toEqual({
    code: "registry_unreachable",
    host: "registry.example",
    detail: "it failed 3 times in a row; looked at again in 1 s",
  });
});

it("lets one reader probe, and all who wait share how that went", async () => {
  const { health, fail, entry, clock } = start();
  await fail(3);
  const leave = await health.enter(HOST, entry());
  const faults = Array.from({ length: 5 }, () => faultFrom(health.enter(HOST, entry())));
  leave("failed", GONE);
  const wanted: Fault = GONE.fault;
  expect(await Promise.all(faults)).toEqual(Array.from({ length: 5 }, () => wanted));
  // The next one comes half a second later, and this time it works.
  const entering = health.enter(HOST, entry());
  const others = Array.from({ length: 5 }, () => health.enter(HOST, entry()));
  await clock.advance(499);
  expect(health.standing(HOST)).toBe("resting");
  await clock.advance(1);
  (await entering)("served");
  for (const other of others) (await other)("served");
  expect(health.standing(HOST)).toBe("ready");
});

it("is asked by the next who waits when it has answered the probe with an error of its own", async () => {
  const { health, fail, entry, clock } = start();
  await fail(3);
  const leave = await health.enter(HOST, entry());
  const others = Array.from({ length: 3 }, () => health.enter(HOST, entry()));
  leave("failed", BROKEN);
  await clock.advance(499);
  expect(health.standing(HOST)).toBe("resting");
  await clock.advance(1);
  for (const other of others) (await other)("served");
  expect(health.standing(HOST)).toBe("ready");
});

it("goes on with the next reader when the one that probes goes away", async () => {
  const { health, fail, entry, clock } = start();
  await fail(3);
  (await health.enter(HOST, entry()))("failed", BROKEN);
  const gone = new AbortController();
  const leaving = faultFrom(health.enter(HOST, entry({ signal: gone.signal })));
  const staying = health.enter(HOST, entry());
  gone.abort(new DaemonError({ code: "cancelled", what: "it" }));
  expect((await leaving).code).toBe("cancelled");
  await clock.advance(500);
  (await staying)("served");
  expect(health.standing(HOST)).toBe("ready");
});

it("that asks to wait is waited for by all, up to their deadlines", async () => {
  const { health, entry, clock } = start();
  health.waits(HOST, 7_000);
  expect(health.standing(HOST)).toBe("resting");
  const soon = faultFrom(health.enter(HOST, entry({ deadlineMs: clock.nowMs() + 5_000 })));
  expect(await soon).toEqual({
    code: "registry_throttled",
    host: "registry.example",
    retryAfterMs: 7_000,
  });
  let isIn = false;
  const entering = health.enter(HOST, entry()).then((leave) => {
    isIn = true;
    leave("served");
  });
  await clock.advance(6_999);
  expect(isIn).toBe(false);
  await clock.advance(1);
  await entering;
  expect(clock.pendingCount).toBe(0);
});

it("that asks for a day is looked at again in five minutes", async () => {
  const { health, clock } = start();
  health.waits(HOST, 86_400_000);
  await clock.advance(300_000);
  expect(health.standing(HOST)).toBe("ready");
});

it("leaves no timer behind when the source is closed, or nobody uses it any more", async () => {
  const closed = start();
  await closed.fail(3);
  closed.closing.abort();
  expect(closed.clock.pendingCount).toBe(0);
  const unused = start();
  await unused.fail(3);
  await unused.clock.advance(400_000);
  expect(unused.clock.pendingCount).toBe(0);
  expect(unused.health.standing(HOST)).toBe("trial");
});

it("wakes who would ask again later when a host that was given up answers", async () => {
  const { health, fail, alive, clock } = start();
  const signal = new AbortController().signal;
  const over: string[] = [];
  await fail(3);
  void health.pause([OTHER, HOST], 60_000, signal).then(() => over.push("here"));
  void health.pause([OTHER], 60_000, signal).then(() => over.push("elsewhere"));
  await clock.advance(1_000);
  expect(over).toEqual([]);
  alive.is = true;
  await clock.advance(2_000);
  expect(over).toEqual(["here"]);
  await clock.advance(57_000);
  expect(over).toEqual(["here", "elsewhere"]);
});

it("wakes them too when a reader's own request is served, and never after an abort", async () => {
  const { health, fail, clock, entry } = start();
  const abort = new AbortController();
  await fail(3);
  const paused = health.pause([HOST], 60_000, new AbortController().signal);
  const aborted = faultFrom(health.pause([HOST], 60_000, abort.signal));
  abort.abort(new DaemonError({ code: "stopping" }));
  expect(await aborted).toEqual({ code: "stopping" });
  const leave = health.enter(HOST, entry());
  await clock.advance(500);
  (await leave)("served");
  await paused;
  expect(clock.pendingCount).toBe(0);
});
