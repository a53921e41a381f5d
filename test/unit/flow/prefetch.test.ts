// SPDX-License-Identifier: Apache-2.0
// Prefetch: what is filled in which order, and that no reader pays for it.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { type PrefetchJob, Prefetcher } from "../../../src/flow/prefetch.ts";
import type { DeviceExtent } from "../../../src/image/erofs/inode.ts";
import type { SizedBlobLocation } from "../../../src/source/source.ts";
import { BLOCK_BYTES, type Extent } from "../../../src/units.ts";
import type { FakeObject } from "../../support/fake-kernel.ts";
import {
  FlowRig,
  type RigOptions,
  blocks,
  patternBytes,
  sameBytes,
} from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const QUIET_MS = 100;
const unreachable = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });

class PrefetchRig extends FlowRig {
  table: DeviceExtent[] | Error = [];
  isBusy = false;
  unixMs = 5_000_000;
  readonly prefetcher: Prefetcher;

  constructor(options: RigOptions = {}) {
    super(options);
    this.prefetcher = new Prefetcher({
      engine: this.engine,
      clock: this.clock,
      log: this.log,
      isBusy: () => this.isBusy,
      unixMs: () => this.unixMs + this.clock.nowMs(),
      tableExtents: () => this.#extents(),
    });
  }

  async *#extents(): AsyncGenerator<DeviceExtent, void> {
    await Promise.resolve();
    if (this.table instanceof Error) throw this.table;
    yield* this.table;
  }

  get fetched(): Extent[] {
    return this.source.fetches.map(({ extent }) => extent);
  }

  /** Lets time pass until the engine is quiet. */
  async quiet(): Promise<void> {
    await this.clock.advance(QUIET_MS);
  }

  /** Gives every open fetch its bytes, and those that follow, until none does. */
  async finishAll(): Promise<void> {
    for (let rounds = 0; rounds < 1_000 && this.source.open.length > 0; rounds += 1) {
      for (const fetch of this.source.open) fetch.finish();
      await turns();
    }
  }
}

function jobOf(devices: SizedBlobLocation[], more: Partial<PrefetchJob> = {}): PrefetchJob {
  return { devices, bootstrapPath: "/b", all: true, bandwidthRate: 0, ...more };
}

function named(device: number, first: number, end: number): DeviceExtent {
  return { device, ...blocks(first, end) };
}

/** A job on one blob of `count` blocks that has just been opened. */
async function opened(
  count: number,
  more: Partial<PrefetchJob> = {},
  prepare?: (object: FakeObject) => void,
): Promise<{ rig: PrefetchRig; blob: SizedBlobLocation; object: FakeObject; content: Uint8Array }> {
  const rig = new PrefetchRig();
  const content = patternBytes(count * B);
  const blob = rig.blob(content);
  rig.prefetcher.start("a", jobOf([blob], more));
  const object = await rig.open(blob, prepare);
  return { rig, blob, object, content };
}

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
    await turns();
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
    console.log(rig.fetched, rig.clock.pendingDelaysMs, rig.engine.load, rig.log.lines, rig.clock.nowMs());
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
    rig.engine.flowOf(stream).launch(blocks(52, 53), 60_000);
    await rig.quiet();
    expect(rig.fetched).toEqual([blocks(52, 53)]);
    rig.source.fetches[0]?.finish();
    await rig.quiet();
    await rig.finishAll();
    expect(rig.fetched.slice(1)).toEqual([blocks(0, 2), blocks(53, 60)]);
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

  test("who waits for a prefetch that fails is told as ever", async () => {
    const { rig, object } = await opened(60);
    await rig.quiet();
    const read = rig.read(object, 0, 1);
    rig.source.fetches[0]?.fail(unreachable);
    await turns();
    expect([read.answer, read.error]).toEqual(["failed", unreachable]);
    expect(rig.fillFailures).toHaveLength(1);
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
