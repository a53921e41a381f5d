// SPDX-License-Identifier: Apache-2.0
// What lies around misses that jump about: fetched at once where most of it is there already, else
// only while the wire is idle; and never for an engine that stops or an object that is closed.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES, MIB } from "../../../src/units.ts";
import type { FakeObject } from "../../support/fake-kernel.ts";
import { FlowRig, blocks, patternBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
/** Blocks of a region. */
const REGION = (4 * MIB) / B;
const QUIET_MS = 10;

async function opened(cachedBlocks = 0): Promise<{ rig: FlowRig; object: FakeObject }> {
  const limits = { windowBytes: 64 * B, windowBytesMax: 128 * B, fillsNeighbours: true };
  const rig = new FlowRig({ slabBlocks: 64, slabsMax: 8, limits });
  const object = await rig.open(rig.blob(patternBytes(2 * REGION * B)), (fake) => {
    fake.extents = cachedBlocks === 0 ? [] : [blocks(0, cachedBlocks)];
  });
  return { rig, object };
}

/** Finishes what is open, and lets the quiet time pass: `rounds` times. */
async function rounds(rig: FlowRig, count: number): Promise<void> {
  await turns();
  for (let round = 0; round < count; round += 1) {
    for (const fetch of rig.source.open) fetch.finish();
    await turns();
    await rig.clock.advance(QUIET_MS);
  }
}

describe("a miss that continues nothing", () => {
  test("has half a window on either side fetched once the wire has been idle, one at a time", async () => {
    const { rig, object } = await opened();
    rig.read(object, 500, 501);
    await rig.clock.advance(1_000);
    // Its own window, and nothing beside it.
    expect(rig.asked).toEqual(["demand 500-564"]);
    rig.source.fetches[0]?.finish();
    await turns();
    await rig.clock.advance(QUIET_MS - 1);
    expect(rig.asked).toHaveLength(1);
    await rig.clock.advance(1);
    expect(rig.asked.slice(1)).toEqual(["ahead 484-500"]);
    await rounds(rig, 4);
    expect(rig.asked.slice(2)).toEqual(["ahead 468-484"]);
    expect([rig.clock.pendingCount, rig.slabs.lentCount]).toEqual([0, 0]);
  });

  test("of a reader of single blocks makes the rest of a region wanted at once when half of it is there", async () => {
    const { rig, object } = await opened(REGION / 2);
    for (const at of [1_100, 1_330, 1_700, 1_850]) rig.read(object, at, at + 1);
    await rounds(rig, 60);
    const asked = rig.asked.length;
    rig.read(object, 700, 701);
    await turns();
    expect(rig.asked.slice(asked)).toEqual(["demand 700-701", "ahead 701-717"]);
    await rounds(rig, 60);
    const rest = rig.source.fetches
      .filter(({ extent }) => extent.offset < REGION * B)
      .reduce((sum, { extent }) => sum + extent.length / B, 0);
    expect([rest, rig.source.open.length, rig.clock.pendingCount]).toEqual([REGION / 2, 0, 0]);
  });

  test("of such a reader in a region of which little is there waits for the wire to be idle", async () => {
    const { rig, object } = await opened(REGION / 4);
    for (const at of [1_100, 1_330, 1_700, 1_850]) rig.read(object, at, at + 1);
    await rounds(rig, 1);
    const asked = rig.asked.length;
    rig.read(object, 700, 701);
    await turns();
    expect(rig.asked.slice(asked)).toEqual(["demand 700-701"]);
  });
});

describe("over a link that is known", () => {
  test("as much as it carries in a round trip and a half sets out right behind a miss, the nearest first", async () => {
    const { rig, object } = await opened();
    await rig.measureLink(10);
    rig.read(object, 500, 501);
    await turns();
    expect(rig.asked).toEqual(["demand 500-564"]);
    // 63 blocks in 10 ms, 189 in a round trip and a half: 64 leave 125, after a bit more than 10 ms.
    await rig.clock.advance(10);
    expect(rig.asked).toHaveLength(1);
    await rig.clock.advance(1);
    expect(rig.asked.slice(1)).toEqual(["ahead 564-628", "ahead 628-629", "ahead 440-500"]);
  });

  test("nothing goes with a miss that fills the link for longer than that", async () => {
    const { rig, object } = await opened();
    await rig.measureLink(2);
    rig.read(object, 500, 501);
    await rig.clock.advance(1_000);
    expect(rig.asked).toEqual(["demand 500-564"]);
  });
});

test("a reader who comes meanwhile is served beside one piece at most", async () => {
  const { rig, object } = await opened();
  rig.read(object, 100, 105);
  rig.read(object, 700, 705);
  await rounds(rig, 1);
  const read = rig.read(object, REGION + 300, REGION + 305);
  await turns();
  const open = new Set(rig.source.open.map(({ options }) => options.urgency));
  expect([rig.source.open.length, open]).toEqual([2, new Set(["ahead", "demand"])]);
  await rounds(rig, 1);
  expect(read.answer).toBe("complete");
});

test("an object that closes ends what is wanted around its misses", async () => {
  const { rig, object } = await opened();
  rig.read(object, 100, 105).withdraw();
  rig.read(object, 700, 705).withdraw();
  await turns();
  rig.close(object);
  const fetched = rig.source.fetches.length;
  await rig.clock.advance(5_000);
  expect([rig.source.fetches.length, rig.clock.pendingCount]).toEqual([fetched, 0]);
});

test("an engine that stops begins no neighbour when the one in the air has ended", async () => {
  const { rig, object } = await opened();
  rig.read(object, 100, 105);
  rig.read(object, 700, 705);
  await turns();
  const fetched = rig.source.fetches.length;
  rig.engine.abort(new DaemonError({ code: "stopping" }));
  await rig.clock.advance(5_000);
  expect([rig.source.fetches.length, rig.clock.pendingCount]).toEqual([fetched, 0]);
  expect(rig.slabs.lentCount).toBe(0);
});
