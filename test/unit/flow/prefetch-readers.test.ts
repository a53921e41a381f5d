// SPDX-License-Identifier: Apache-2.0
// Prefetch: no reader pays for it, and neither does a source that is slow or fails.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { blocks, patternBytes } from "../../support/flow-rig.ts";
import { PrefetchRig, QUIET_MS, jobOf, opened } from "../../support/prefetch-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const unreachable = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });

describe("readers come first", () => {
  test("nothing is begun while a READ waits, nor 100 ms after the last one came", async () => {
    const { rig, object } = await opened(60);
    const read = rig.read(object, 30, 31);
    await rig.clock.advance(1_000);
    expect([rig.fetched, read.answer]).toEqual([[blocks(30, 38)], "waiting"]);
    rig.source.fetches[0]?.give(B);
    await turns();
    expect(read.answer).toBe("complete");
    // Its window is still on the way.
    await rig.clock.advance(1_000);
    expect(rig.fetched).toHaveLength(1);
    rig.source.fetches[0]?.finish();
    await turns();
    rig.read(object, 31, 32);
    await rig.clock.advance(QUIET_MS - 1);
    expect(rig.fetched).toHaveLength(1);
    await rig.clock.advance(1);
    expect(rig.fetched).toEqual([blocks(30, 38), blocks(0, 8)]);
  });

  test("a READ of an object that is still being looked at counts as waiting", async () => {
    const { rig } = await opened(60);
    const other = rig.blob(patternBytes(8 * B, 2));
    const object = await rig.open(other, (fake) => {
      fake.extents = new Promise(() => undefined);
    });
    rig.read(object, 0, 1);
    await rig.clock.advance(5_000);
    expect(rig.fetched).toEqual([]);
    rig.close(object);
    await rig.quiet();
    expect(rig.fetched).toEqual([blocks(0, 8)]);
  });

  test("one flight is in the air, two when none has read for two seconds", async () => {
    const { rig, object } = await opened(200, {}, (fake) => {
      fake.extents = [blocks(190, 200)];
    });
    await rig.quiet();
    expect(rig.source.open).toHaveLength(1);
    expect(rig.prefetcher.counters("a")?.workers).toBe(1);
    rig.source.open[0]?.finish();
    await turns();
    expect(rig.source.open).toHaveLength(1);
    await rig.clock.advance(2_000);
    rig.source.open[0]?.finish();
    await turns();
    expect(rig.source.open).toHaveLength(2);
    expect(rig.read(object, 190, 191).answer).toBe("complete");
    rig.source.open[0]?.finish();
    await rig.quiet();
    expect(rig.source.open).toHaveLength(1);
  });

  test("one who wants bytes that are being prefetched gets them from that flight", async () => {
    const { rig, object } = await opened(8);
    await rig.quiet();
    const read = rig.read(object, 3, 4);
    await turns();
    expect(rig.fetched).toEqual([blocks(0, 8)]);
    rig.source.fetches[0]?.give(4 * B);
    await turns();
    // All of the blob is verified as a whole before any of it is given.
    expect(read.answer).toBe("waiting");
    rig.source.fetches[0]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
  });

  test("one who comes meanwhile is served at once, and prefetch waits again", async () => {
    const { rig, object } = await opened(60);
    await rig.quiet();
    const read = rig.read(object, 40, 41);
    await turns();
    expect(rig.fetched).toEqual([blocks(0, 8), blocks(40, 48)]);
    rig.source.fetches[1]?.finish();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
    await rig.clock.advance(QUIET_MS - 1);
    expect(rig.fetched).toHaveLength(2);
    await rig.clock.advance(1);
    expect(rig.fetched[2]).toEqual(blocks(8, 16));
  });

  test("other work that is under way holds it back", async () => {
    const rig = new PrefetchRig();
    const blob = rig.blob(patternBytes(8 * B));
    rig.isBusy = true;
    rig.prefetcher.start("a", jobOf([blob]));
    await rig.open(blob);
    await rig.clock.advance(1_000);
    expect(rig.fetched).toEqual([]);
    rig.isBusy = false;
    await rig.quiet();
    expect(rig.fetched).toHaveLength(1);
  });

  test("a prefetch that fails is not remembered against them", async () => {
    const { rig, object } = await opened(60);
    await rig.quiet();
    rig.source.fetches[0]?.fail(unreachable);
    await turns();
    expect(rig.fillFailures).toEqual([]);
    const read = rig.read(object, 0, 1);
    await turns();
    expect(read.answer).toBe("waiting");
    rig.source.fetches[1]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
  });

  test("who waits for a prefetch that fails gets a fetch of its own, and is told when that fails", async () => {
    const { rig, object } = await opened(60);
    await rig.quiet();
    const read = rig.read(object, 0, 1);
    rig.source.fetches[0]?.fail(unreachable);
    await turns();
    expect([read.answer, rig.fillFailures]).toEqual(["waiting", []]);
    expect(rig.asked).toEqual(["prefetch 0-8", "demand 0-1"]);
    const again = new DaemonError({ code: "registry_failed", host: "r", status: 500, detail: "" });
    rig.source.fetches[1]?.fail(again);
    await turns();
    expect([read.answer, read.error]).toEqual(["failed", again]);
    expect([rig.fillFailures.length, rig.asked.length]).toEqual([1, 2]);
  });
});

describe("pace", () => {
  test("the operator's rate holds, also over several devices", async () => {
    const { rig } = await opened(80, { bandwidthRate: 16 * B });
    await rig.quiet();
    const beganMs = rig.clock.nowMs();
    for (let seconds = 0; seconds < 4; seconds += 1) {
      await rig.finishAll();
      const elapsed = (rig.clock.nowMs() - beganMs) / 1000;
      expect(rig.prefetcher.counters("a")?.bytes).toBe((elapsed * 16 + 8) * B);
      await rig.clock.advance(1_000 - 500);
      await rig.finishAll();
      await rig.clock.advance(500);
    }
  });

  test("a source that fails is asked again after 1, 2, 4 ... 60 s, and is told of once", async () => {
    const { rig } = await opened(800);
    await rig.quiet();
    const gaps: number[] = [];
    for (let round = 0; round < 9; round += 1) {
      for (const fetch of rig.source.open) fetch.fail(unreachable);
      await turns();
      const fromMs = rig.clock.nowMs();
      while (rig.source.open.length === 0) await rig.clock.advance(500);
      gaps.push(rig.clock.nowMs() - fromMs);
    }
    expect(gaps).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60].map((seconds) => seconds * 1_000));
    expect(rig.log.messages("warn")).toHaveLength(1);
    expect(rig.log.messages("warn")[0]).toMatch(/^prefetch waits, and will try again: /);
    await rig.finishAll();
    for (const fetch of rig.source.open) fetch.fail(unreachable);
    expect(rig.slabs.lentCount).toBe(0);
    expect(rig.prefetcher.counters("a")?.endedAtMs).toBeDefined();
  });

  test("what fails three times is passed over", async () => {
    const { rig } = await opened(16);
    await rig.quiet();
    for (let tries = 0; tries < 3; tries += 1) {
      rig.source.open.find(({ extent }) => extent.offset === 0)?.fail(unreachable);
      await rig.clock.advance(60_000);
    }
    await rig.finishAll();
    expect(rig.fetched.filter(({ offset }) => offset === 0)).toHaveLength(3);
    expect(rig.prefetcher.counters("a")).toMatchObject({ bytes: 8 * B, workers: 0 });
    expect(rig.prefetcher.counters("a")?.endedAtMs).toBeDefined();
  });
});
