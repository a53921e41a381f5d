// SPDX-License-Identifier: Apache-2.0
// How large the next prefetch flight may be, from what the ones before it have shown.

import { describe, expect, it } from "vitest";
import { PrefetchPace, Transfer } from "../../../src/flow/prefetch/pace.ts";
import { KIB, MIB } from "../../../src/units.ts";

/** A flight on a link of `bytesPerMs`, in pieces of 16 KiB, after `latencyMs`. */
function flown(bytes: number, bytesPerMs: number, latencyMs = 20): Transfer {
  const transfer = new Transfer();
  for (let at = 0; at < bytes; at += 16 * KIB) {
    const piece = Math.min(16 * KIB, bytes - at);
    transfer.took(piece, latencyMs + (at + piece) / bytesPerMs);
  }
  return transfer;
}

function settled(bytesPerMs: number, latencyMs?: number): number {
  const pace = new PrefetchPace();
  for (let round = 0; round < 20; round += 1) {
    pace.succeeded(flown(pace.flightBytes(0), bytesPerMs, latencyMs));
  }
  return pace.flightBytes(0);
}

describe("a flight's size", () => {
  it("is 256 KiB before anything is known", () => {
    expect(new PrefetchPace().flightBytes(0)).toBe(256 * KIB);
  });

  it("comes to 50 ms of the link, up to 1 MiB, whatever its latency", () => {
    for (const latencyMs of [0, 20, 500]) {
      expect(settled(2 * KIB, latencyMs)).toBeGreaterThan(96 * KIB);
      expect(settled(2 * KIB, latencyMs)).toBeLessThanOrEqual(100 * KIB);
      expect(settled(1 * MIB, latencyMs)).toBe(MIB);
    }
  });

  it("stays at least a block on a link that hardly moves", () => {
    const pace = new PrefetchPace();
    for (let round = 0; round < 20; round += 1) pace.succeeded(flown(64 * KIB, 0.01));
    expect(pace.flightBytes(0)).toBe(4 * KIB);
  });

  it("is no more than a second of the operator's rate", () => {
    expect(new PrefetchPace().flightBytes(100 * KIB)).toBe(100 * KIB);
    expect(new PrefetchPace().flightBytes(1)).toBe(4 * KIB);
  });
});

describe("a source that fails", () => {
  it("is counted once for flights that fail together, and forgiven at the first success", () => {
    const pace = new PrefetchPace();
    pace.failed(10_000);
    pace.failed(10_100);
    expect([pace.startMs, pace.isFailing]).toEqual([11_000, true]);
    pace.failed(11_000);
    expect(pace.startMs).toBe(13_000);
    pace.succeeded(flown(64 * KIB, 1_000));
    expect(pace.isFailing).toBe(false);
    pace.failed(20_000);
    expect(pace.startMs).toBe(21_000);
  });
});
