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

  it("of requests that nobody waits for are kept apart", () => {
    const { history: seen } = history();
    for (let at = 0; at < 20; at += 1) seen.recordFirstByte(LINK, 900, false);
    expect(seen.firstByteMs(LINK, 0.5)).toBeUndefined();
    expect(seen.unhurriedFirstByteMs(LINK, 0.5)).toBe(900);
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
