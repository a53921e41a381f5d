// SPDX-License-Identifier: Apache-2.0
// READs of streams of units: what one bad unit, one that nobody vouches for, or one that takes its
// time does to its readers, and to nobody else.

import { describe, expect, test } from "vitest";
import type { Stream } from "../../../src/flow/stream.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import type { FakeObject } from "../../support/fake-kernel.ts";
import { FlowRig, LIMITS, type RigOptions, blocks, sameBytes } from "../../support/flow-rig.ts";
import { unitsSimulated } from "../../support/simulation/streams.ts";
import { type SimulatedUnit, SimulatedUnits } from "../../support/simulation/units.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const DECODED_MS = 3_000;

/** Units of two blocks in two pieces each, stored in 5000 bytes every 6000. */
function twoBlockUnits(count: number): SimulatedUnits {
  const all = Array.from({ length: count }, (_, index): SimulatedUnit => {
    const offset = 2 * index * B;
    const pieces = [0, 1].map((piece) => ({
      offset: offset + piece * B,
      from: piece * (B - 10),
      length: B - 10,
      digest: new Uint8Array(32),
    }));
    const stored = { offset: 6_000 * index, length: 5_000 };
    const unit = { stored, codec: "zstd", decodedBytes: 2 * (B - 10), pieces } as const;
    return { extent: blocks(2 * index, 2 * index + 2), unit, isTrusted: true, isBad: false };
  });
  return new SimulatedUnits(all, 1);
}

class Rig extends FlowRig {
  readonly map: SimulatedUnits;
  readonly made: Stream;

  constructor(map: SimulatedUnits, options: RigOptions = {}) {
    super({ slabBlocks: 16, ...options });
    this.map = map;
    this.made = unitsSimulated(this, { map, host: "registry.example", seed: 1 }).make();
  }

  async openUnits(prepare?: (object: FakeObject) => void): Promise<FakeObject> {
    const object = this.object(this.map.sizeBytes);
    prepare?.(object);
    this.engine.serve(this.made, object);
    await turns();
    return object;
  }

  /** Gives every fetch its bytes, and every decode its time. */
  async finishAll(): Promise<void> {
    await turns();
    for (const fetch of this.source.open) fetch.finish();
    await this.clock.advance(DECODED_MS);
  }

  /** The same for as long as a reader may wait. */
  async finishInTime(): Promise<void> {
    const endMs = this.clock.nowMs() + LIMITS.readTimeoutMs;
    while (this.clock.nowMs() < endMs) {
      for (const fetch of this.source.open) fetch.finish();
      await this.clock.advance(100);
    }
  }
}

const bad = (map: SimulatedUnits, ...indexes: number[]): SimulatedUnits =>
  new SimulatedUnits(
    map.all.map((one, index) => (indexes.includes(index) ? { ...one, isBad: true } : one)),
    1,
  );

describe("a bad unit", () => {
  test("fails those who need it; its neighbours of the same fetch arrive", async () => {
    const rig = new Rig(bad(twoBlockUnits(4), 1));
    const object = await rig.openUnits();
    const reads = [rig.read(object, 0, 2), rig.read(object, 2, 3), rig.read(object, 4, 6)];
    await rig.finishAll();
    expect(reads.map(({ answer }) => answer)).toEqual(["complete", "waiting", "complete"]);
    // It alone is fetched a second time, from where peers have no say.
    expect(rig.asked).toEqual(["demand 0-6", "demand bytes 6000-11000"]);
    expect(rig.source.fetches.map(({ options }) => options.avoidPeers)).toEqual([false, true]);
    await rig.finishInTime();
    expect(reads.map(({ answer }) => answer)).toEqual(["complete", "failed", "complete"]);
    expect(reads[1]?.error?.fault.code).toBe("digest_mismatch");
    expect(new Set(rig.asked.slice(1))).toEqual(new Set(["demand bytes 6000-11000"]));
    expect(object.hasWritten(blocks(2, 3)) || object.hasWritten(blocks(3, 4))).toBe(false);
    expect(sameBytes(object.file.subarray(0, 2 * B), rig.map.bytes.subarray(0, 2 * B))).toBe(true);
  });

  test("fails who joins its fetch after it was seen to be bad", async () => {
    const rig = new Rig(bad(twoBlockUnits(4), 0));
    const [one, two] = [await rig.openUnits(), await rig.openUnits()];
    const first = rig.read(one, 0, 8);
    await turns();
    rig.source.open[0]?.give(5_500);
    await rig.clock.advance(DECODED_MS);
    const late = rig.read(two, 0, 1);
    await turns();
    // Its second fetch is under way for the first reader, and shared.
    expect([late.answer, rig.asked]).toEqual(["waiting", ["demand 0-6", "demand 0-2"]]);
    await rig.finishInTime();
    expect([first.answer, late.answer]).toEqual(["failed", "failed"]);
    expect(new Set(rig.asked.slice(1))).toEqual(new Set(["demand 0-2"]));
    expect(late.error?.fault.code).toBe("digest_mismatch");
  });
});

test("a unit of which a block is cached is fetched and written whole", async () => {
  const rig = new Rig(twoBlockUnits(4));
  const object = await rig.openUnits((fake) => {
    fake.preload(rig.map.bytes, blocks(2, 3));
    fake.extents = [blocks(2, 3)];
  });
  const read = rig.read(object, 3, 4);
  await turns();
  expect(rig.source.fetches[0]?.extent.offset).toBe(6_000);
  await rig.finishAll();
  expect([read.answer, object.hasWritten(blocks(2, 8))]).toEqual(["complete", true]);
});

describe("a unit that no image vouches for", () => {
  test("fails its readers at once and ends the read-ahead", async () => {
    const map = twoBlockUnits(4);
    for (const one of map.all.slice(2, 3)) one.isTrusted = false;
    const rig = new Rig(map);
    const object = await rig.openUnits();
    const reads = [rig.read(object, 0, 2), rig.read(object, 3, 5), rig.read(object, 4, 5)];
    expect(reads.map(({ error }) => error?.fault.code)).toEqual([
      undefined,
      "chunk_untrusted",
      "chunk_untrusted",
    ]);
    await rig.finishAll();
    expect(rig.source.fetches.map(({ extent }) => extent)).toEqual([{ offset: 0, length: 11_000 }]);
    expect([reads[0]?.answer, rig.map.violations]).toEqual(["complete", []]);
    expect(rig.log.messages("warn")).toHaveLength(1);
  });

  test("is served as soon as one does", async () => {
    const map = twoBlockUnits(2);
    for (const one of map.all) one.isTrusted = false;
    const rig = new Rig(map);
    const object = await rig.openUnits();
    expect(rig.read(object, 0, 1).answer).toBe("failed");
    for (const one of map.all) one.isTrusted = true;
    const read = rig.read(object, 0, 1);
    await rig.finishAll();
    expect(read.answer).toBe("complete");
  });
});

test("a READ that waited for its object to load has only the rest of its time", async () => {
  const limits = { readTimeoutMs: 1_000 };
  const rig = new Rig(twoBlockUnits(2), { limits });
  let loaded: () => void = () => undefined;
  const object = await rig.openUnits((fake) => {
    fake.extents = new Promise((resolve) => void (loaded = () => resolve([])));
  });
  const read = rig.read(object, 0, 1);
  await rig.clock.advance(900);
  loaded();
  await turns();
  expect(read.answer).toBe("waiting");
  await rig.clock.advance(100);
  expect(read.error?.fault.code).toBe("deadline_exceeded");
});

test("a flight that is cancelled keeps its memory until its decodes have ended", async () => {
  const rig = new Rig(twoBlockUnits(2));
  const object = await rig.openUnits();
  rig.read(object, 0, 4).withdraw();
  await turns();
  rig.source.open[0]?.give(5_000);
  rig.close(object);
  await turns();
  expect(rig.slabs.lentCount).toBe(1);
  await rig.clock.advance(DECODED_MS);
  expect([rig.slabs.lentCount, rig.slabs.violations, rig.map.violations]).toEqual([0, [], []]);
});
