// SPDX-License-Identifier: Apache-2.0
// Who writes into an object's file next: one at a time, and one more for a reader.

import { describe, expect, test } from "vitest";
import { BLOCK_BYTES } from "../../../src/units.ts";
import type { FakeObject } from "../../support/fake-kernel.ts";
import { FlowRig, patternBytes, sameBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const BLOCKS = 3_000;

/** The writes under way, in blocks. */
function underWay({ writes }: FakeObject): [first: number, end: number][] {
  return writes.map(({ range: { fileOffset, length } }) => [
    fileOffset / B,
    (fileOffset + length) / B,
  ]);
}

async function opened(): Promise<{ rig: FlowRig; object: FakeObject; content: Uint8Array }> {
  const limits = { windowBytes: 600 * B, requestsPerHost: 32 };
  const rig = new FlowRig({ slabBlocks: 600, slabsMax: 8, limits });
  const content = patternBytes(BLOCKS * B);
  const object = await rig.open(rig.blob(content), (fake) => {
    fake.holdsWrites = true;
  });
  return { rig, object, content };
}

async function finishFetches(rig: FlowRig): Promise<void> {
  for (const fetch of rig.source.open) fetch.finish();
  await turns();
}

describe("what nobody waits for", () => {
  test("goes one write at a time, however many fetches have come", async () => {
    const { rig, object } = await opened();
    const read = rig.read(object, 0, 1);
    await turns();
    // The link is unknown: 1 MiB with the reader's block, the rest of the window behind it.
    expect(rig.asked.length).toBeGreaterThan(1);
    await finishFetches(rig);
    expect(underWay(object)).toEqual([[0, 256]]);
    object.writes.shift()?.finish();
    await turns();
    expect([read.answer, object.writes.length]).toEqual(["complete", 1]);
    await rig.drain(object);
    expect(object.hasWritten({ offset: 0, length: 600 * B })).toBe(true);
  });

  test("goes in pieces of at most 2 MiB: a reader may stand behind one", async () => {
    const { rig, object } = await opened();
    const idle = await rig.open(rig.blob(patternBytes(BLOCKS * B)), (fake) => {
      fake.holdsWrites = true;
    });
    rig.read(object, 0, 600);
    await turns();
    await finishFetches(rig);
    expect([underWay(object), underWay(idle)]).toEqual([[[0, 600]], [[0, 512]]]);
    idle.writes.shift()?.finish();
    await turns();
    expect(underWay(idle)).toEqual([[512, 600]]);
    await rig.drain(object, idle);
    expect(rig.slabs.lentCount).toBe(0);
  });
});

describe("what a reader waits for", () => {
  test("is written beside the bulk that is under way, two writes at most", async () => {
    const { rig, object, content } = await opened();
    rig.read(object, 0, 1);
    await turns();
    await finishFetches(rig);
    object.writes.shift()?.finish();
    await turns();
    const bulk = underWay(object);
    expect(bulk).toHaveLength(1);
    const first = rig.read(object, 2_000, 2_001);
    const second = rig.read(object, 1_000, 1_001);
    await turns();
    await finishFetches(rig);
    expect(underWay(object).slice(0, 1)).toEqual(bulk);
    expect(object.writes).toHaveLength(2);
    expect(underWay(object)[1]?.[0]).toBe(2_000);
    object.writes.splice(1, 1)[0]?.finish();
    await turns();
    // The next reader's bytes go before the rest of the bulk, whose write still lasts.
    expect([first.answer, second.answer]).toEqual(["complete", "waiting"]);
    expect(underWay(object)[1]?.[0]).toBe(1_000);
    await rig.drain(object);
    expect(second.answer).toBe("complete");
    for (const from of [0, 1_000, 2_000]) {
      const [at, end] = [from * B, (from + 600) * B];
      expect(sameBytes(object.file.subarray(at, end), content.subarray(at, end))).toBe(true);
    }
    expect(rig.slabs.lentCount).toBe(0);
  });

  test("is not written twice when a second reader comes while it is", async () => {
    const { rig, object } = await opened();
    const first = rig.read(object, 5, 9);
    await turns();
    rig.source.fetches[0]?.give(20 * B);
    await turns();
    expect(underWay(object)).toEqual([[5, 25]]);
    const second = rig.read(object, 6, 12);
    await turns();
    expect(underWay(object)).toEqual([[5, 25]]);
    object.writes.shift()?.finish();
    await turns();
    expect([first.answer, second.answer]).toEqual(["complete", "complete"]);
  });
});
