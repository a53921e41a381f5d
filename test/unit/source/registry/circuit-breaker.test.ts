// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { CircuitBreaker } from "../../../../src/source/registry/circuit-breaker.ts";
import { FakeClock } from "../../../support/fake-clock.ts";

function make(): { clock: FakeClock; breaker: CircuitBreaker; states: string[] } {
  const clock = new FakeClock();
  const states: string[] = [];
  const breaker = new CircuitBreaker({ clock, onChange: (state) => states.push(state) });
  return { clock, breaker, states };
}

it("opens after three failures in a row, not after three in all", () => {
  const { breaker, states } = make();
  for (let at = 0; at < 10; at += 1) {
    breaker.failed();
    breaker.failed();
    breaker.succeeded();
  }
  expect(breaker.allows()).toBe(true);
  for (let at = 0; at < 3; at += 1) breaker.failed();
  expect(breaker.allows()).toBe(false);
  expect(states).toEqual(["open"]);
});

it("lets one request through after its pause, and closes when that is served", async () => {
  const { clock, breaker, states } = make();
  breaker.trip();
  await clock.advance(4_999);
  expect(breaker.allows()).toBe(false);
  await clock.advance(1);
  expect([breaker.allows(), breaker.allows()]).toEqual([true, false]);
  breaker.succeeded();
  expect([breaker.allows(), breaker.allows()]).toEqual([true, true]);
  expect(states).toEqual(["open", "probing", "closed"]);
});

it("does not close for a request that was made before it opened", () => {
  const { breaker } = make();
  breaker.trip();
  breaker.succeeded();
  expect(breaker.state).toBe("open");
});

it("waits twice as long each time, up to two minutes", async () => {
  const { clock, breaker } = make();
  breaker.trip();
  const pauses: number[] = [];
  for (let at = 0; at < 7; at += 1) {
    let pauseMs = 0;
    while (!breaker.allows()) {
      await clock.advance(1_000);
      pauseMs += 1_000;
    }
    pauses.push(pauseMs);
    breaker.failed();
  }
  expect(pauses).toEqual([5_000, 10_000, 20_000, 40_000, 80_000, 120_000, 120_000]);
});

it("remembers a peer that does well when tried and fails soon after", async () => {
  const { clock, breaker } = make();
  breaker.trip();
  await clock.advance(5_000);
  expect(breaker.allows()).toBe(true);
  breaker.succeeded();
  breaker.trip();
  await clock.advance(9_999);
  expect(breaker.allows()).toBe(false);
  await clock.advance(1);
  expect(breaker.allows()).toBe(true);
  breaker.succeeded();
  await clock.advance(60_000);
  breaker.trip();
  await clock.advance(5_000);
  expect(breaker.allows()).toBe(true);
});

it("lets another through when nobody ever said how the first one ended", async () => {
  const { clock, breaker } = make();
  breaker.trip();
  await clock.advance(5_000);
  expect(breaker.allows()).toBe(true);
  await clock.advance(5_000);
  expect(breaker.allows()).toBe(true);
});
