// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { LatencyHistory, linkOf } from "../../../../src/source/registry/latency-history.ts";
import { FakeClock } from "../../../support/fake-clock.ts";

const LINK = linkOf("registry.example", "direct");

function history(): { clock: FakeClock; history: LatencyHistory } {
  const clock = new FakeClock();
  return { clock, history: new LatencyHistory({ clock }) };
}

describe("times to a first byte", () => {
  it("say nothing until there are a few", () => {
    const { history: seen } = history();
    for (let at = 0; at < 7; at += 1) seen.recordFirstByte(LINK, 20, true);
    expect(seen.firstByteMs(LINK, 0.5)).toBeUndefined();
    seen.recordFirstByte(LINK, 20, true);
    expect(seen.firstByteMs(LINK, 0.5)).toBe(20);
  });

  it("of requests that nobody waits for do not count", () => {
    const { history: seen } = history();
    for (let at = 0; at < 20; at += 1) seen.recordFirstByte(LINK, 900, false);
    expect(seen.firstByteMs(LINK, 0.5)).toBeUndefined();
    expect(seen.estimate(LINK)?.rttMs).toBe(900);
  });

  it("give percentiles", () => {
    const { history: seen } = history();
    for (let at = 1; at <= 60; at += 1) seen.recordFirstByte(LINK, at, true);
    expect(seen.firstByteMs(LINK, 0.5)).toBe(31);
    expect(seen.firstByteMs(LINK, 0.95)).toBe(58);
    expect(seen.firstByteMs(LINK, 1)).toBe(60);
  });

  it("are kept for each link alone", () => {
    const { history: seen } = history();
    for (let at = 0; at < 8; at += 1) seen.recordFirstByte(LINK, 20, true);
    expect(seen.firstByteMs(linkOf("registry.example", "peers"), 0.5)).toBeUndefined();
  });

  it("are the last 64, whatever was before", () => {
    const { history: seen } = history();
    for (let at = 0; at < 64; at += 1) seen.recordFirstByte(LINK, 500, true);
    for (let at = 0; at < 64; at += 1) seen.recordFirstByte(LINK, 5, true);
    expect(seen.firstByteMs(LINK, 1)).toBe(5);
  });

  it("of long ago do not count", async () => {
    const { clock, history: seen } = history();
    for (let at = 0; at < 20; at += 1) seen.recordFirstByte(LINK, 500, true);
    await clock.advance(300_001);
    expect(seen.firstByteMs(LINK, 0.5)).toBeUndefined();
    for (let at = 0; at < 8; at += 1) seen.recordFirstByte(LINK, 5, true);
    expect(seen.firstByteMs(LINK, 0.95)).toBe(5);
  });

  it("of hosts beyond the bound are forgotten, the unused first", () => {
    const { history: seen } = history();
    for (let at = 0; at < 8; at += 1) seen.recordFirstByte(LINK, 20, true);
    for (let at = 0; at < 256; at += 1) seen.recordFirstByte(`direct host${at}`, 1, true);
    expect(seen.firstByteMs(LINK, 0.5)).toBeUndefined();
  });
});

describe("an estimate of a link", () => {
  it("is unknown before the first byte", () => {
    expect(history().history.estimate(LINK)).toBeUndefined();
  });

  it("has a round trip of the fast answers, not of the queued ones", () => {
    const { history: seen } = history();
    for (const ms of [20, 21, 20, 90, 200, 150, 80, 22]) seen.recordFirstByte(LINK, ms, true);
    expect(seen.estimate(LINK)).toEqual({ rttMs: 20, bytesPerMs: undefined });
  });

  it("counts the bytes of all transfers at once as the link's rate", async () => {
    const { clock, history: seen } = history();
    seen.recordFirstByte(LINK, 20, true);
    const transfers = [seen.beginTransfer(LINK), seen.beginTransfer(LINK)];
    for (let ms = 0; ms < 100; ms += 10) {
      await clock.advance(10);
      for (const transfer of transfers) transfer.addBytes(10_000);
    }
    for (const transfer of transfers) transfer.end();
    const { bytesPerMs = 0 } = seen.estimate(LINK) ?? {};
    expect(bytesPerMs).toBeGreaterThan(1_700);
    expect(bytesPerMs).toBeLessThanOrEqual(2_100);
  });

  it("leaves idle time between transfers out", async () => {
    const { clock, history: seen } = history();
    seen.recordFirstByte(LINK, 20, true);
    for (let at = 0; at < 10; at += 1) {
      const transfer = seen.beginTransfer(LINK);
      await clock.advance(10);
      transfer.addBytes(10_000);
      transfer.end();
      transfer.end();
      await clock.advance(1_000);
    }
    expect(seen.estimate(LINK)?.bytesPerMs).toBe(1_000);
  });
});
