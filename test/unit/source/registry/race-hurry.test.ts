// SPDX-License-Identifier: Apache-2.0
// What becomes of a race when somebody begins to wait for its bytes.

import { getEventListeners } from "node:events";
import { describe, expect, it } from "vitest";
import { expectTidy, startRace } from "../../../support/race-rig.ts";

describe("two lanes", () => {
  it("are two at once when somebody begins to wait", async () => {
    const hurry = new AbortController();
    const rig = startRace({ hurry: hurry.signal, delayMs: 5_000 });
    hurry.abort();
    expect(rig.b.offsets).toEqual([0]);
    rig.b.end();
    expect(await rig.result).toEqual({ winner: 1 });
    expectTidy(rig);
    expect(getEventListeners(hurry.signal, "abort")).toHaveLength(0);
  });

  it("are two when somebody waits, once the first has had its time", async () => {
    const hurry = new AbortController();
    const rig = startRace({ hurry: hurry.signal, hurriedMs: 50, delayMs: 5_000 });
    await rig.clock.advance(20);
    hurry.abort();
    await rig.clock.advance(29);
    expect(rig.b.offsets).toEqual([]);
    await rig.clock.advance(1);
    expect(rig.b.offsets).toEqual([0]);
    rig.b.end();
    expect(await rig.result).toEqual({ winner: 1 });
    expectTidy(rig);
  });

  it("are one when the first uses the time it has left", async () => {
    const hurry = new AbortController();
    const rig = startRace({ hurry: hurry.signal, hurriedMs: 50, delayMs: 5_000 });
    hurry.abort();
    await rig.clock.advance(49);
    rig.a.piece();
    await rig.clock.advance(10);
    expect(rig.b.offsets).toEqual([]);
    rig.a.end();
    expect(await rig.result).toEqual({ winner: 0 });
    expectTidy(rig);
  });

  it("are one when somebody begins to wait and bytes are coming", async () => {
    const hurry = new AbortController();
    const rig = startRace({ hurry: hurry.signal, delayMs: 5_000 });
    rig.a.piece();
    hurry.abort();
    expect(rig.b.offsets).toEqual([]);
    rig.a.end();
    expect(await rig.result).toEqual({ winner: 0 });
  });
});
