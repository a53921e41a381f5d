// SPDX-License-Identifier: Apache-2.0
// What lies around misses that jump about: fetched at once where a second jump says so, else only
// while the wire is idle; and never for an engine that stops or an object that is closed.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES, MIB } from "../../../src/units.ts";
import type { FakeObject } from "../../support/fake-kernel.ts";
import { FlowRig, patternBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
/** Blocks of a region that two jumps make hot. */
const REGION = (4 * MIB) / B;
const QUIET_MS = 10;

async function opened(): Promise<{ rig: FlowRig; object: FakeObject }> {
  const limits = { windowBytes: 64 * B, windowBytesMax: 128 * B, fillsNeighbours: true };
  const rig = new FlowRig({ slabBlocks: 64, slabsMax: 8, limits });
  const object = await rig.open(rig.blob(patternBytes(2 * REGION * B)));
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
    expect(rig.asked.slice(1)).toEqual(["ahead 468-500"]);
    await rounds(rig, 3);
    expect(rig.asked).toHaveLength(2);
    expect([rig.clock.pendingCount, rig.slabs.lentCount]).toEqual([0, 0]);
  });

  test("near another makes the rest of their region wanted at once, one piece after the other", async () => {
    const { rig, object } = await opened();
    rig.read(object, 100, 105);
    rig.read(object, 700, 705);
    await turns();
    expect(rig.asked).toEqual(["demand 100-164", "demand 700-764", "ahead 764-828"]);
    await rounds(rig, 1);
    expect(rig.asked.slice(3)).toEqual(["ahead 828-892"]);
    await rounds(rig, 40);
    const blocks = rig.source.fetches.reduce((sum, { extent }) => sum + extent.length / B, 0);
    expect([blocks, rig.source.open.length, rig.clock.pendingCount]).toEqual([REGION, 0, 0]);
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
