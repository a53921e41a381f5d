// SPDX-License-Identifier: Apache-2.0
// Sleeping on a given clock: no timer and no listener outlives it.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { cancelledBy, sleep, systemClock } from "../../../src/platform/clock.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { codeOf, rejectionOf } from "../../support/fault-code.ts";

describe("sleep", () => {
  test("settles when its time has passed, not before", async () => {
    const clock = new FakeClock();
    let awake = false;
    void sleep(clock, 100, new AbortController().signal).then(() => {
      awake = true;
    });
    await clock.advance(99);
    expect(awake).toBe(false);
    await clock.advance(1);
    expect(awake).toBe(true);
  });

  test("rejects with the reason of its signal, and leaves no timer", async () => {
    const clock = new FakeClock();
    const abort = new AbortController();
    const sleeping = rejectionOf(sleep(clock, 100, abort.signal));
    abort.abort(new DaemonError({ code: "stopping" }));
    expect([await sleeping, clock.pendingCount]).toEqual(["stopping", 0]);
  });

  test("with an aborted signal rejects at once, and leaves no timer", async () => {
    const clock = new FakeClock();
    expect(await rejectionOf(sleep(clock, 100, AbortSignal.abort()))).toBe("cancelled");
    expect(clock.pendingCount).toBe(0);
  });
});

describe("the system's clock", () => {
  test("stands still until what runs has ended or awaits, and goes on then", async () => {
    const began = performance.now();
    const nowMs = systemClock.nowMs();
    expect(nowMs).toBeGreaterThanOrEqual(began);
    while (performance.now() < began + 5) continue;
    expect(systemClock.nowMs()).toBe(nowMs);
    await Promise.resolve();
    expect(systemClock.nowMs()).toBeGreaterThanOrEqual(nowMs + 5);
    const waited = performance.now();
    await new Promise((resolve) => setImmediate(resolve));
    expect(systemClock.nowMs()).toBeGreaterThanOrEqual(waited);
  });
});

test("an abort without a reason of ours is a cancellation", () => {
  expect(codeOf(cancelledBy(AbortSignal.abort("because")))).toBe("cancelled");
});
