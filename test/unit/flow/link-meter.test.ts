// SPDX-License-Identifier: Apache-2.0
// What is believed of a link: round trips from first bytes, bandwidth from all fetches together.

import { describe, expect, test } from "vitest";
import { LinkMeter } from "../../../src/flow/link-meter.ts";
import { KIB, MIB } from "../../../src/units.ts";

/** One fetch: its first byte after `rttMs`, then `bytes` in the next 100 ms. */
function fetchOnce(meter: LinkMeter, rttMs: number, bytes: number, host = "a"): void {
  const measure = meter.began(host, 1_000);
  measure.took(1, 1_000 + rttMs);
  measure.took(bytes, 1_100 + rttMs);
  measure.ended(1_100 + rttMs);
}

describe("a link", () => {
  test("is unknown until a fetch has brought enough after its first piece, and guessed for a while", () => {
    const meter = new LinkMeter();
    const measure = meter.began("a", 1_000);
    measure.took(50_000, 1_020);
    measure.took(64 * KIB - 1, 1_021);
    expect(meter.facts("a")).toBeUndefined();
    measure.took(1, 1_021);
    // A burst may come at once: nothing is taken to have come in less than 2 ms.
    expect(meter.facts("a")).toEqual({ rttMs: 20, bytesPerMs: 32 * KIB });
    measure.took(64 * KIB, 1_060);
    expect(meter.facts("a")).toEqual({ rttMs: 20, bytesPerMs: (128 * KIB) / 40 });
    measure.took(72 * KIB, 1_070);
    measure.took(50 * KIB, 1_071);
    expect(meter.facts("a")).toEqual({ rttMs: 20, bytesPerMs: 4 * KIB });
  });

  test("of what comes with a request that is under way is measured from when it is joined", () => {
    const meter = new LinkMeter();
    fetchOnce(meter, 20, 100_000);
    const joined = meter.began("a", 2_000);
    joined.joined(2_000);
    joined.took(1_000_000, 2_050);
    joined.ended(2_050);
    expect(meter.facts("a")).toMatchObject({ rttMs: 20 });
    expect(meter.facts("a")?.bytesPerMs).toBeGreaterThan(1_000);
  });

  test("is measured over many short fetches, without the time between them", () => {
    const meter = new LinkMeter();
    for (let n = 0; n < 5; n += 1) {
      const measure = meter.began("a", n * 1_000);
      measure.took(1, n * 1_000 + 20);
      measure.took(10_000, n * 1_000 + 30);
      measure.ended(n * 1_000 + 30);
    }
    expect(meter.facts("a")).toEqual({ rttMs: 20, bytesPerMs: 1_000 });
  });

  test("is not taken to be fast for what comes in a burst after a pause", () => {
    const meter = new LinkMeter();
    fetchOnce(meter, 20, 100_000);
    const measure = meter.began("a", 2_000);
    measure.took(1, 2_020);
    measure.took(40_000, 2_021);
    expect(meter.facts("a")?.bytesPerMs).toBe(1_000);
    measure.took(10_000, 2_070);
    expect(meter.facts("a")?.bytesPerMs).toBe(1_000);
  });

  test("is each host's own", () => {
    const meter = new LinkMeter();
    fetchOnce(meter, 20, 100_000);
    fetchOnce(meter, 5, 500_000, "b");
    expect(meter.facts("a")).toEqual({ rttMs: 20, bytesPerMs: 1_000 });
    expect(meter.facts("b")).toEqual({ rttMs: 5, bytesPerMs: 5_000 });
  });

  test("carries the sum of what goes over it at once", () => {
    const meter = new LinkMeter();
    const both = [meter.began("a", 1_000), meter.began("a", 1_000)];
    for (const measure of both) measure.took(1, 1_020);
    for (let ms = 1; ms <= 60; ms += 1) {
      for (const measure of both) measure.took(500, 1_020 + ms);
    }
    expect(meter.facts("a")?.bytesPerMs).toBeGreaterThan(950);
    expect(meter.facts("a")?.bytesPerMs).toBeLessThanOrEqual(1_000);
  });

  test("is not measured over a pause in which nothing was asked of it", () => {
    const meter = new LinkMeter();
    fetchOnce(meter, 20, 100_000);
    const late = meter.began("a", 90_000);
    late.took(1, 90_020);
    late.took(100_000, 90_120);
    expect(meter.facts("a")).toEqual({ rttMs: 20, bytesPerMs: 1_000 });
  });

  test("is believed to be better sooner than worse", () => {
    const meter = new LinkMeter();
    fetchOnce(meter, 20, 100_000);
    fetchOnce(meter, 10, 500_000);
    expect(meter.facts("a")).toEqual({ rttMs: 15, bytesPerMs: 2_000 });
    fetchOnce(meter, 31, 120_000);
    expect(meter.facts("a")).toEqual({ rttMs: 16, bytesPerMs: 1_900 });
  });

  test("so fast that time stands still gives a figure all the same", () => {
    const meter = new LinkMeter();
    const measure = meter.began("a", 1_000);
    measure.took(1, 1_000);
    measure.took(16 * MIB, 1_000);
    expect(meter.facts("a")).toEqual({ rttMs: 0, bytesPerMs: (16 * MIB) / 0.2 });
  });
});

describe("a fetch that ends", () => {
  test("before its first byte, or twice, counts for nothing", () => {
    const meter = new LinkMeter();
    meter.began("a", 1_000).ended(1_500);
    const measure = meter.began("a", 1_000);
    measure.took(1, 1_020);
    measure.ended(1_020);
    measure.ended(1_020);
    // Were it counted twice, the time before this one's first byte would count.
    fetchOnce(meter, 20, 100_000);
    expect(meter.facts("a")).toEqual({ rttMs: 20, bytesPerMs: 1_000 });
  });
});

test("a thousand hosts are not all remembered", () => {
  const meter = new LinkMeter();
  for (let i = 0; i < 1_000; i += 1) fetchOnce(meter, 20, 100_000, `host-${i}`);
  expect(meter.facts("host-0")).toBeUndefined();
  expect(meter.facts("host-999")).toBeDefined();
});
