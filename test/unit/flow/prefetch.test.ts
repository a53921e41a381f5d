// SPDX-License-Identifier: Apache-2.0
// Prefetch: what is filled in which order, and how a job begins, rests and ends.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { blocks, patternBytes, sameBytes } from "../../support/flow-rig.ts";
import { PrefetchRig, QUIET_MS, jobOf, named, opened } from "../../support/prefetch-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const unreachable = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });

describe("a job", () => {
  test("begins when a device is opened: the table's files, then all, verified and written", async () => {
    const rig = new PrefetchRig();
    const contents = [patternBytes(20 * B), patternBytes(10 * B, 2)];
    const blobs = contents.map((content) => rig.blob(content));
    rig.table = [named(0, 0, 9), named(2, 4, 6), named(9, 0, 1), named(1, 8, 9)];
    rig.prefetcher.start("a", jobOf(blobs));
    await rig.clock.advance(10_000);
    expect([rig.fetched.length, rig.clock.pendingCount]).toEqual([0, 0]);
    const objects = await Promise.all(blobs.map((blob) => rig.open(blob)));
    await rig.quiet();
    await rig.finishAll();
    expect(rig.fetched).toEqual([
      blocks(4, 6),
      blocks(8, 9),
      blocks(0, 8),
      blocks(9, 17),
      blocks(17, 20),
      blocks(0, 4),
      blocks(6, 10),
    ]);
    objects.forEach(({ file }, index) => {
      expect(sameBytes(file, contents[index] ?? new Uint8Array())).toBe(true);
    });
    const beganAtMs = rig.unixMs + 11_000;
    expect(rig.prefetcher.counters("a")).toEqual({
      requests: 7,
      bytes: 30 * B,
      workers: 0,
      beganAtMs,
      endedAtMs: beganAtMs + QUIET_MS,
    });
    expect(rig.log.lines.filter(({ message }) => message === "prefetch ended")).toEqual([
      {
        level: "info",
        fields: { key: "a", bytes: 30 * B, requests: 7, ms: QUIET_MS },
        message: "prefetch ended",
      },
    ]);
    expect([rig.slabs.lentCount, rig.clock.pendingCount]).toEqual([0, 0]);
  });

  test("without `all` ends with the table; `all` may be asked for later", async () => {
    const { rig, blob } = await opened(20, { all: false });
    await rig.quiet();
    expect([rig.fetched, rig.prefetcher.counters("a")?.endedAtMs]).toEqual([
      [],
      rig.unixMs + 1_000 + QUIET_MS,
    ]);
    rig.prefetcher.start("a", jobOf([blob]));
    expect(rig.prefetcher.counters("a")?.endedAtMs).toBeUndefined();
    await rig.finishAll();
    expect(rig.fetched).toEqual([blocks(0, 8), blocks(8, 16), blocks(16, 20)]);
  });

  test("started again goes on where it is, with the new options", async () => {
    const { rig, blob } = await opened(40, { bandwidthRate: 8 * B });
    await rig.quiet();
    await rig.finishAll();
    expect(rig.fetched).toEqual([blocks(0, 8)]);
    rig.prefetcher.start("a", jobOf([blob]));
    await rig.finishAll();
    expect(rig.fetched).toHaveLength(5);
    expect(rig.prefetcher.counters("a")).toMatchObject({ requests: 5, bytes: 40 * B });
  });

  test("passes over what is cached, in the air or may not be served", async () => {
    const rig = new PrefetchRig();
    const blob = rig.blob(patternBytes(60 * B));
    rig.prefetcher.start("a", jobOf([blob]));
    const object = rig.object(blob.size);
    object.extents = [blocks(2, 51)];
    const stream = rig.stream(blob);
    const cut: typeof stream.map.cut = (extent, limits) =>
      extent.offset === 51 * B ? { ...extent, length: 0 } : stream.map.cut(extent, limits);
    rig.engine.serve({ ...stream, map: { ...stream.map, cut } }, object);
    await turns();
    rig.engine.flowOf(stream).launch(blocks(52, 53), {
      urgency: "demand",
      deadlineMs: 60_000,
      group: rig,
    });
    await rig.quiet();
    expect(rig.fetched).toEqual([blocks(52, 53)]);
    rig.source.fetches[0]?.finish();
    await rig.quiet();
    await rig.finishAll();
    expect(rig.fetched.slice(1)).toEqual([blocks(0, 2), blocks(53, 60)]);
  });

  test("that names bytes twice fetches them once, and ends with its last flight", async () => {
    const rig = new PrefetchRig();
    const blob = rig.blob(patternBytes(12 * B));
    rig.table = [named(1, 0, 4), named(1, 8, 9), named(1, 0, 4)];
    const object = await rig.open(blob);
    await rig.clock.advance(2_000);
    rig.prefetcher.start("a", jobOf([blob], { all: false }));
    await turns();
    expect(rig.fetched).toEqual([blocks(0, 4), blocks(8, 9)]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect(rig.fetched).toHaveLength(2);
    expect(rig.prefetcher.counters("a")).toMatchObject({ workers: 1, endedAtMs: undefined });
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.prefetcher.counters("a")?.endedAtMs).toBeDefined();
    expect(object.hasWritten(blocks(0, 4))).toBe(true);
  });

  test("whose table is damaged says so, and fills the devices", async () => {
    const rig = new PrefetchRig();
    rig.table = new DaemonError({ code: "image_invalid", where: "x", detail: "nonsense" });
    const blob = rig.blob(patternBytes(4 * B));
    rig.prefetcher.start("a", jobOf([blob]));
    await rig.open(blob);
    await rig.quiet();
    await rig.finishAll();
    expect(rig.fetched).toEqual([blocks(0, 4)]);
    expect(rig.log.messages("warn")).toHaveLength(1);
    expect(rig.log.messages("warn")[0]).toMatch(/the prefetch table is passed over: .*nonsense/);
  });

  test("shares the air with another, in turns", async () => {
    const rig = new PrefetchRig();
    const blobs = [rig.blob(patternBytes(16 * B)), rig.blob(patternBytes(16 * B, 2))];
    blobs.forEach((blob, index) => {
      rig.prefetcher.start(`job-${index}`, jobOf([blob]));
    });
    await Promise.all(blobs.map((blob) => rig.open(blob)));
    await rig.quiet();
    await rig.finishAll();
    const digests = rig.source.fetches.map(({ blob }) => blob.digest);
    const [first, second] = blobs.map(({ digest }) => digest);
    expect(digests).toEqual([first, second, first, second]);
  });
});

describe("an image that is unmounted", () => {
  test("is left alone, and filled on when it is mounted again", async () => {
    const { rig, blob, object, content } = await opened(24);
    await rig.quiet();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.source.open.map(({ extent }) => extent)).toEqual([blocks(8, 16)]);
    rig.close(object);
    await rig.clock.advance(60_000);
    expect([rig.source.open, rig.clock.pendingCount, rig.slabs.lentCount]).toEqual([[], 0, 0]);
    expect(rig.prefetcher.counters("a")?.endedAtMs).toBeUndefined();
    const again = await rig.open(blob, (fake) => {
      fake.extents = [blocks(0, 8)];
      fake.preload(content, blocks(0, 8));
    });
    await rig.quiet();
    await rig.finishAll();
    expect(rig.fetched).toEqual([blocks(0, 8), blocks(8, 16), blocks(8, 16), blocks(16, 24)]);
    expect(sameBytes(again.file, content)).toBe(true);
    expect(rig.prefetcher.counters("a")).toMatchObject({ bytes: 24 * B, workers: 0 });
    expect(rig.log.messages("warn")).toEqual([]);
  });

  test("is not read ahead by a device whose turn it is while only another is open", async () => {
    const rig = new PrefetchRig();
    const blobs = [rig.blob(patternBytes(8 * B)), rig.blob(patternBytes(8 * B, 2))];
    rig.prefetcher.start("a", jobOf(blobs));
    const [first, second] = blobs;
    if (first === undefined || second === undefined) throw new Error("two blobs");
    await rig.open(second);
    await rig.clock.advance(5_000);
    expect([rig.fetched, rig.clock.pendingCount]).toEqual([[], 0]);
    await rig.open(first);
    await rig.quiet();
    await rig.finishAll();
    expect(rig.fetched).toHaveLength(2);
  });
});

describe("an end", () => {
  test("cancel: nothing more is begun, what is in the air goes on", async () => {
    const { rig, object } = await opened(60);
    await rig.quiet();
    rig.prefetcher.cancel("a");
    rig.prefetcher.cancel("a");
    expect(rig.prefetcher.counters("a")).toBeUndefined();
    const read = rig.read(object, 0, 1);
    rig.source.fetches[0]?.finish();
    await rig.clock.advance(60_000);
    expect([read.answer, rig.fetched.length]).toEqual(["complete", 1]);
    expect([rig.slabs.lentCount, rig.clock.pendingCount]).toEqual([0, 0]);
  });

  test("cancel: what then fails is nobody's business", async () => {
    const { rig } = await opened(60);
    await rig.quiet();
    rig.prefetcher.cancel("a");
    rig.source.fetches[0]?.fail(unreachable);
    await rig.clock.advance(60_000);
    expect([rig.fetched.length, rig.log.messages("warn")]).toEqual([1, []]);
  });

  test("stop: no timer is left, whatever it waited for", async () => {
    const quiet = await opened(60);
    const failing = await opened(60);
    await failing.rig.quiet();
    failing.rig.source.fetches[0]?.fail(unreachable);
    await turns();
    for (const { rig, blob } of [quiet, failing]) {
      expect(rig.clock.pendingCount).toBe(1);
      rig.prefetcher.stop();
      rig.prefetcher.start("b", jobOf([blob]));
      const fetches = rig.fetched.length;
      expect(rig.clock.pendingCount).toBe(0);
      await rig.clock.advance(60_000);
      expect([rig.fetched.length, rig.slabs.lentCount]).toEqual([fetches, 0]);
    }
  });
});
