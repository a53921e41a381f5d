// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { Breaker } from "../../../../src/source/registry/breaker.ts";

it("opens after three failures in a row, not after three in all", () => {
  const breaker = new Breaker();
  for (let at = 0; at < 10; at += 1) {
    breaker.failed(at, false);
    breaker.failed(at, false);
    breaker.succeeded(at);
  }
  expect(breaker.state).toBe("closed");
  for (let at = 0; at < 3; at += 1) breaker.failed(at, false);
  expect(breaker.state).toBe("open");
});

it("rests twice as long after each probe that fails, up to half a minute", () => {
  const breaker = new Breaker();
  let nowMs = 0;
  breaker.trip(nowMs);
  const rests: number[] = [];
  for (let at = 0; at < 7; at += 1) {
    const restMs = breaker.restMs(nowMs);
    rests.push(restMs);
    nowMs += restMs;
    breaker.answered();
    breaker.failed(nowMs, true);
  }
  expect(rests).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
});

it("hears of those that were under way only while it is closed", () => {
  const breaker = new Breaker();
  breaker.trip(0);
  breaker.failed(500, false);
  expect(breaker.restMs(500)).toBe(500);
  breaker.answered();
  breaker.failed(600, false);
  expect(breaker.state).toBe("half-open");
});

it("rests longer when it does well once and fails soon after, but not for ever", () => {
  const breaker = new Breaker();
  breaker.trip(0);
  breaker.answered();
  breaker.succeeded(1_000);
  breaker.trip(1_500);
  expect(breaker.restMs(1_500)).toBe(2_000);
  breaker.answered();
  breaker.succeeded(4_000);
  breaker.trip(60_000);
  expect(breaker.restMs(60_000)).toBe(1_000);
});
