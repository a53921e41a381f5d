// SPDX-License-Identifier: Apache-2.0
// What is fetched before readers ask for it, for each kind of reader, and what is not.

import { describe, expect, test } from "vitest";
import { BLOCK_BYTES } from "../../../src/units.ts";
import type { FakeObject } from "../../support/fake-kernel.ts";
import { FlowRig, type RigOptions, blocks, patternBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const ROOMY: RigOptions = { slabsMax: 16, limits: { requestsPerHost: 32 } };

async function opened(
  options: RigOptions = ROOMY,
  prepare?: (object: FakeObject) => void,
  count = 4_000,
): Promise<{ rig: FlowRig; object: FakeObject }> {
  const rig = new FlowRig(options);
  const object = await rig.open(rig.blob(patternBytes(count * B)), prepare);
  return { rig, object };
}

describe("a reader in order", () => {
  test("finds the next window in the air before it asks", async () => {
    const { rig, object } = await opened();
    rig.read(object, 0, 1);
    await turns();
    expect(rig.asked).toEqual(["demand 0-8"]);
    rig.read(object, 4, 5);
    await turns();
    expect(rig.asked.slice(1)).toEqual(["ahead 8-16"]);
    await rig.drain();
    rig.read(object, 13, 14);
    await turns();
    expect(rig.asked.slice(2)).toEqual(["ahead 16-32", "ahead 32-40"]);
  });

  test("gets more in one request than others, where there is memory for it", async () => {
    const { rig, object } = await opened({ slabsMax: 64, limits: { requestsPerHost: 32 } });
    rig.read(object, 0, 1);
    rig.read(object, 4, 5);
    await rig.drain();
    rig.read(object, 13, 14);
    await turns();
    expect(rig.asked.slice(2)).toEqual(["ahead 16-40"]);
  });

  test("who finds its READ cached is still read ahead for", async () => {
    const { rig, object } = await opened(ROOMY, (fake) => {
      fake.extents = [blocks(0, 10)];
    });
    for (const at of [0, 4]) expect(rig.read(object, at, at + 1).answer).toBe("complete");
    await turns();
    expect(rig.asked).toEqual(["ahead 10-21"]);
  });

  test("gets nothing again that is cached or in the air", async () => {
    const rig = new FlowRig(ROOMY);
    const blob = rig.blob(patternBytes(4_000 * B));
    const object = await rig.open(blob, (fake) => {
      fake.extents = [blocks(10, 12)];
    });
    rig.read(await rig.open(blob), 14, 15);
    rig.read(object, 0, 1);
    rig.read(object, 4, 5);
    await turns();
    expect(rig.asked).toEqual(["demand 14-22", "demand 0-8", "ahead 8-10", "ahead 12-14"]);
  });

  test("is answered by read-ahead that it catches up with: it becomes demand", async () => {
    const { rig, object } = await opened({ slabsMax: 8, limits: { requestsPerHost: 3 } });
    rig.read(object, 0, 1);
    rig.read(object, 8, 9);
    await turns();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.asked).toEqual(["demand 0-8", "demand 8-16", "ahead 16-24"]);
    const read = rig.read(object, 24, 25);
    await turns();
    expect(rig.asked.slice(3)).toEqual(["demand 24-25"]);
    rig.source.fetches[3]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
  });
});

describe("the first window", () => {
  const limits = { windowBytes: 256 * B, windowBytesMax: 512 * B, requestsPerHost: 32 };

  test("that one background request could carry goes into the reader's own", async () => {
    const { rig, object } = await opened();
    rig.read(object, 100, 101);
    await turns();
    expect(rig.asked).toEqual(["demand 100-108"]);
  });

  test("comes in one request while the link is unknown: its first bytes come soonest so", async () => {
    const { rig, object } = await opened({ slabBlocks: 256, slabsMax: 8, limits });
    rig.read(object, 1_000, 1_010);
    await turns();
    expect(rig.asked).toEqual(["demand 1000-1256"]);
  });

  test("goes out in larger pieces over a faster link: 50 ms of it", async () => {
    const { rig, object } = await opened({ slabBlocks: 256, slabsMax: 8, limits });
    await rig.measureLink(3);
    rig.read(object, 1_000, 1_010);
    await turns();
    expect(rig.asked).toEqual(["demand 1000-1150", "ahead 1150-1256"]);
  });
});

test("a reader that goes backward gets what lies before it", async () => {
  const { rig, object } = await opened();
  for (const at of [100, 99, 98]) rig.read(object, at, at + 1);
  await turns();
  expect(rig.asked).toEqual(["demand 100-108", "demand 99-100", "demand 98-99", "ahead 90-98"]);
});

test("a strided reader gets its next four READs, each as long as its last", async () => {
  const { rig, object } = await opened();
  for (const at of [0, 500, 1000]) rig.read(object, at, at + 2);
  await turns();
  expect(rig.asked.slice(2)).toEqual([
    "demand 1000-1002",
    "ahead 1500-1502",
    "ahead 2000-2002",
    "ahead 2500-2502",
    "ahead 3000-3002",
  ]);
});

describe("a reader that jumps about", () => {
  const jumps = [2_000, 200, 3_000, 900, 2_600, 1_700];

  test("gets its block alone from its fourth jump on while the link is unknown", async () => {
    const { rig, object } = await opened();
    for (const at of jumps) rig.read(object, at, at + 1);
    await turns();
    expect(rig.asked.slice(2)).toEqual([
      "demand 3000-3008",
      "demand 900-901",
      "demand 2600-2601",
      "demand 1700-1701",
    ]);
  });

  test("makes the engine give up read-ahead that waits, and nothing that a reader waits for", async () => {
    const { rig, object } = await opened({ slabsMax: 8, limits: { requestsPerHost: 3 } });
    rig.read(object, 0, 1);
    const joined = rig.read(object, 8, 9);
    await turns();
    // 24-25 waits for the host; so does what the jumps want.
    expect(rig.asked).toEqual(["demand 0-8", "demand 8-16", "ahead 16-24"]);
    const waits = rig.read(object, 24, 25);
    const strays = jumps.map((at) => rig.read(object, at, at + 1));
    await rig.drain();
    expect([joined, waits, ...strays].map(({ answer }) => answer)).toEqual(
      Array.from({ length: 8 }, () => "complete"),
    );
    expect(rig.asked).toContain("demand 24-25");
    expect(rig.asked.filter((one) => one.startsWith("ahead"))).toEqual(["ahead 16-24"]);
    expect([rig.slabs.lentCount, rig.engine.load.isMemoryShort]).toEqual([0, false]);
  });
});

describe("a gap between two parts that a reader lacks", () => {
  const cached = (fake: FakeObject): void => {
    fake.extents = [blocks(1_002, 1_003)];
  };

  test("splits the fetch while the link is unknown", async () => {
    const { rig, object } = await opened(ROOMY, cached);
    rig.read(object, 1_000, 1_006);
    await turns();
    expect(rig.asked).toEqual(["demand 1000-1002", "demand 1003-1008"]);
  });

  test("is fetched along once the link shows that it costs less than a request, and not rewritten", async () => {
    const { rig, object } = await opened({ ...ROOMY, slabBlocks: 32 }, cached);
    await rig.measureLink(1);
    object.holdsWrites = true;
    rig.read(object, 1_000, 1_006);
    await turns();
    expect(rig.asked).toEqual(["demand 1000-1008"]);
    for (const fetch of rig.source.open) fetch.finish();
    const written: number[] = [];
    for (let round = 0; round < 20; round += 1) {
      await turns();
      for (const write of object.writes.splice(0)) {
        const { fileOffset, length } = write.range;
        for (let at = 0; at < length; at += B) written.push((fileOffset + at) / B);
        write.finish();
      }
    }
    expect(written).toContain(1_001);
    expect(written).toContain(1_003);
    expect(written).not.toContain(1_002);
    expect(new Set(written).size).toBe(written.length);
  });
});

test("what a reader waits for is tried until its deadline, what is read ahead is not", async () => {
  const { rig, object } = await opened();
  for (const at of [100, 105]) rig.read(object, at, at + 1);
  await turns();
  const asked = rig.source.fetches.map(({ options }) => [options.urgency, options.isPatient]);
  expect(asked[0]).toEqual(["demand", true]);
  expect(asked).toContainEqual(["ahead", false]);
});

test("a reader who joins read-ahead tells its source, for peers may be slow", async () => {
  const { rig, object } = await opened();
  for (const at of [100, 105]) rig.read(object, at, at + 1);
  await turns();
  const ahead = rig.source.fetches.find(({ options }) => options.urgency === "ahead");
  expect(ahead?.options.awaited?.aborted).toBe(false);
  const first = (ahead?.extent.offset ?? 0) / BLOCK_BYTES;
  rig.read(object, first, first + 1);
  expect(ahead?.options.awaited?.aborted).toBe(true);
});
