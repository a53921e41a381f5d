// SPDX-License-Identifier: Apache-2.0
// Objects coming and going while fetches and writes are under way, streams verified as a whole,
// and heads pinned by an OPEN.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import type { FakeObject, FakeRead } from "../../support/fake-kernel.ts";
import { codeOf, rejectionOf, thrownBy } from "../../support/fault-code.ts";
import { FlowRig, blocks, patternBytes, sameBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const noSpace = new DaemonError({ code: "cache_no_space", key: "k", detail: "full" });
const unreachable = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });

describe("an object that closes", () => {
  test("in the middle of a native write keeps the buffer lent until that write has ended", async () => {
    const rig = new FlowRig();
    const content = patternBytes(20 * B);
    const object = await rig.open(rig.blob(content), (fake) => {
      fake.holdsWrites = true;
    });
    const read = rig.read(object, 0, 1);
    await turns();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(object.writes).toHaveLength(1);
    read.withdraw();
    rig.close(object);
    await turns();
    expect(rig.slabs.lentCount).toBe(1);
    object.writes[0]?.finish();
    await turns();
    expect(rig.slabs.lentCount).toBe(0);
    expect(sameBytes(object.file.subarray(0, 8 * B), content.subarray(0, 8 * B))).toBe(true);
  });

  test("cancels a fetch only it wanted, and a new reader of the same bytes gets a new one", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const first = await rig.open(blob);
    rig.read(first, 0, 1).withdraw();
    await turns();
    rig.close(first);
    const second = await rig.open(blob);
    const read = rig.read(second, 0, 1);
    await turns();
    expect(rig.source.fetches.map(({ ended }) => ended)).toEqual([true, false]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
  });

  test("leaves the fetch to the other object that waits for it", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const [one, two] = [await rig.open(blob), await rig.open(blob)];
    rig.read(one, 0, 1).withdraw();
    const read = rig.read(two, 0, 1);
    rig.close(one);
    await turns();
    rig.source.fetches[0]?.finish();
    await turns();
    expect([read.answer, rig.source.fetches.length, one.writeCount]).toEqual(["complete", 1, 0]);
  });

  test("while it loads drops its queued reads without answering them", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)), (fake) => {
      fake.extents = new Promise(() => undefined);
    });
    const read = rig.read(object, 0, 1);
    read.withdraw();
    rig.close(object);
    await turns();
    expect([read.answer, rig.clock.pendingCount, rig.source.fetches.length]).toEqual([
      "gone",
      0,
      0,
    ]);
  });

  // The join is tried at every step of the way from the last write to the buffer's return.
  test.each([0, 1, 2, 3, 4, 5, 6, 7, 8])(
    "a reader that joins %d promises after the last write never reads a buffer given back",
    async (steps) => {
      const rig = new FlowRig({ slabsMax: 1 });
      const content = patternBytes(40 * B);
      const blob = rig.blob(content);
      const hold = (fake: FakeObject): void => {
        fake.holdsWrites = true;
      };
      const [one, two] = [await rig.open(blob, hold), await rig.open(blob, hold)];
      rig.read(one, 0, 1);
      rig.read(two, 0, 1);
      await turns();
      rig.source.fetches[0]?.finish();
      await turns();
      two.writes.shift()?.fail(noSpace);
      await rig.clock.advance(1000);
      let late: FakeRead | undefined;
      one.writes.shift()?.finish();
      let step = Promise.resolve();
      for (let i = 0; i < steps; i += 1) step = step.then(() => undefined);
      void step.then(() => {
        late = rig.read(two, 0, 1);
      });
      rig.read(one, 20, 21);
      await turns();
      await rig.drain(two, one);
      expect(late?.answer).toBe("complete");
      expect(rig.slabs.violations).toEqual([]);
      expect(sameBytes(two.file.subarray(0, B), content.subarray(0, B))).toBe(true);
      expect(rig.slabs.lentCount).toBe(0);
    },
  );

  test("a read of it that comes too late is failed", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    rig.close(object);
    expect(codeOf(rig.read(object, 0, 1).error)).toBe("cancelled");
  });
});

describe("an object that loads", () => {
  test("queues its reads until it knows what its file holds", async () => {
    const rig = new FlowRig();
    let loaded: (extents: { offset: number; length: number }[]) => void = () => undefined;
    const object = await rig.open(rig.blob(patternBytes(20 * B)), (fake) => {
      fake.extents = new Promise((resolve) => {
        loaded = resolve;
      });
    });
    const [cached, missing] = [rig.read(object, 0, 1), rig.read(object, 3, 4)];
    await turns();
    expect([cached.answer, rig.source.fetches.length]).toEqual(["waiting", 0]);
    expect(rig.engine.waitingReads).toBe(2);
    loaded([blocks(0, 2)]);
    await turns();
    expect([cached.answer, missing.answer]).toEqual(["complete", "waiting"]);
    rig.source.fetches[0]?.finish();
    await turns();
    expect([missing.answer, rig.clock.pendingCount]).toEqual(["complete", 0]);
  });

  test("is served from the registry when its file cannot be listed", async () => {
    const rig = new FlowRig();
    const broken = new DaemonError({ code: "cache_write_failed", key: "k", detail: "EIO" });
    const object = await rig.open(rig.blob(patternBytes(20 * B)), (fake) => {
      fake.extents = Promise.reject(broken);
    });
    const read = rig.read(object, 0, 1);
    await turns();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
  });
});

describe("a stream that one fetch carries whole", () => {
  test("is written only after its digest has been checked", async () => {
    const rig = new FlowRig();
    const content = patternBytes(3 * B + 5);
    const object = await rig.open(rig.blob(content));
    const read = rig.read(object, 0, 1);
    await turns();
    rig.source.fetches[0]?.give();
    await turns();
    expect([read.answer, object.writeCount]).toEqual(["waiting", 0]);
    rig.source.fetches[0]?.end();
    await turns();
    expect(read.answer).toBe("complete");
  });

  test("with another digest comes a second time as a whole, from where peers have no say", async () => {
    const rig = new FlowRig();
    const content = patternBytes(3 * B + 5);
    const object = await rig.open(rig.blob(content));
    const reads = [rig.read(object, 0, 1), rig.read(object, 2, 4)];
    await turns();
    rig.source.fetches[0]?.giveBytes(patternBytes(content.length, 2)).end();
    await turns();
    expect(rig.asked).toEqual(["demand 0-4", "demand 0-4"]);
    expect(rig.source.fetches.map(({ options }) => options.avoidPeers)).toEqual([false, true]);
    expect(object.writeCount).toBe(0);
    await rig.drain();
    expect(reads.map(({ answer }) => answer)).toEqual(["complete", "complete"]);
    expect(sameBytes(object.file.subarray(0, content.length), content)).toBe(true);
  });

  test("comes again as a whole beside a fetch that brings a part of it", async () => {
    const rig = new FlowRig();
    const content = patternBytes(3 * B + 5);
    const blob = rig.blob(content);
    const object = await rig.open(blob);
    rig.read(object, 2, 4);
    await turns();
    const head = rig.engine.flowOf(rig.stream(blob)).pinHead();
    const read = rig.read(object, 1, 2);
    await turns();
    rig.source.open.at(-1)?.giveBytes(patternBytes(content.length, 2)).end();
    await turns();
    expect(rig.asked.slice(-1)).toEqual(["demand 0-4"]);
    expect([rig.asked.length, object.writeCount]).toEqual([3, 0]);
    head.release();
    await rig.drain();
    expect(read.answer).toBe("complete");
    expect(sameBytes(object.file.subarray(0, content.length), content)).toBe(true);
  });

  test("with another digest is never written, however often it comes", async () => {
    const rig = new FlowRig();
    const content = patternBytes(3 * B + 5);
    const blob = rig.blob(content);
    const object = await rig.open(blob);
    const read = rig.read(object, 0, 1);
    while (read.answer === "waiting") {
      for (const fetch of rig.source.open) fetch.giveBytes(patternBytes(content.length, 2)).end();
      await rig.clock.advance(10);
    }
    expect([codeOf(read.error), object.writeCount]).toEqual(["digest_mismatch", 0]);
    expect(new Set(rig.asked)).toEqual(new Set(["demand 0-4"]));
    expect(rig.slabs.lentCount).toBe(0);
  });
});

describe("a pinned head", () => {
  test("is fetched once: it is written into the object that is opened on it", async () => {
    const rig = new FlowRig();
    const content = patternBytes(20 * B);
    const blob = rig.blob(content);
    const head = rig.engine.flowOf(rig.stream(blob)).pinHead();
    const seen = head.bytes(100);
    await turns();
    rig.source.fetches[0]?.give(B);
    expect(await seen).toEqual(content.subarray(0, 100));
    const object = await rig.open(blob);
    head.release();
    const read = rig.read(object, 0, 1);
    rig.source.fetches[0]?.finish();
    await turns();
    expect([read.answer, rig.source.fetches.length]).toEqual(["complete", 1]);
    expect(object.hasWritten(blocks(0, 8))).toBe(true);
    expect([rig.slabs.lentCount, rig.clock.pendingCount]).toEqual([0, 0]);
  });

  test("that arrived before the OPEN waits in its buffer until it is released", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const head = rig.engine.flowOf(rig.stream(blob)).pinHead();
    await turns();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.slabs.lentCount).toBe(1);
    const object = await rig.open(blob);
    expect(object.hasWritten(blocks(0, 8))).toBe(true);
    head.release();
    head.release();
    await turns();
    expect(rig.slabs.lentCount).toBe(0);
    expect(rig.read(object, 7, 8).answer).toBe("complete");
  });

  test("released before it came cancels its fetch, without a failure to remember", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const head = rig.engine.flowOf(rig.stream(blob)).pinHead();
    const seen = rejectionOf(head.bytes(100));
    await turns();
    head.release();
    expect(await seen).toBe("cancelled");
    const object = await rig.open(blob);
    const read = rig.read(object, 0, 1);
    await turns();
    expect([read.answer, rig.source.open.length]).toEqual(["waiting", 1]);
  });

  test("whose fetch has failed is no burden to readers that come while it is held", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const head = rig.engine.flowOf(rig.stream(blob)).pinHead();
    await turns();
    rig.source.fetches[0]?.give(2 * B).fail(unreachable);
    await rig.clock.advance(5000);
    const object = await rig.open(blob);
    const read = rig.read(object, 4, 5);
    head.release();
    await turns();
    expect([read.answer, rig.source.open.length]).toEqual(["waiting", 1]);
    rig.source.open[0]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
  });

  test("is short when the stream is", async () => {
    const rig = new FlowRig();
    const head = rig.engine.flowOf(rig.stream(rig.blob(patternBytes(300)))).pinHead();
    await turns();
    rig.source.fetches[0]?.finish();
    expect(await head.bytes(4096)).toHaveLength(300);
    head.release();
  });
});

describe("the engine", () => {
  test("refuses a second size for a stream that is being served", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const object = await rig.open(blob);
    expect(thrownBy(() => rig.engine.flowOf(rig.stream({ ...blob, size: 21 * B })))).toBe(
      "image_invalid",
    );
    rig.close(object);
    expect(rig.engine.flowOf(rig.stream({ ...blob, size: 21 * B })).stream.map.sizeBytes).toBe(
      21 * B,
    );
  });

  test("fetches from where the latest mount says, once nothing is open on the stream", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const moved = { ...blob, origin: { ...blob.origin, host: "mirror.example" } };
    const first = await rig.open(blob);
    const second = await rig.open(moved);
    rig.read(second, 0, 1).withdraw();
    await turns();
    rig.close(first);
    rig.close(second);
    rig.read(await rig.open(moved), 0, 1);
    await turns();
    const hosts = rig.source.fetches.map((fetch) => fetch.blob.origin.host);
    expect(hosts).toEqual(["registry.example", "mirror.example"]);
  });

  test("confirms a blob's size by its last byte", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(100));
    const right = rig.engine.confirmSize(rig.stream(blob));
    rig.source.fetches[0]?.finish();
    expect(await right).toBe(true);
    expect(rig.source.fetches[0]?.extent).toEqual({ offset: 99, length: 1 });
    const wrong = rig.engine.confirmSize(rig.stream({ ...blob, size: 101 }));
    rig.source.fetches[1]?.fail(unreachable);
    expect(await wrong).toBe(false);
  });

  test("aborted fails whoever waits, with the reason, and gives every buffer back", async () => {
    const rig = new FlowRig({ slabsMax: 1, limits: { windowBytes: B } });
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    const reads = [rig.read(object, 0, 1), rig.read(object, 9, 10)];
    await turns();
    rig.engine.abort(new DaemonError({ code: "stopping" }));
    await turns();
    expect(reads.map((read) => codeOf(read.error))).toEqual(["stopping", "stopping"]);
    expect([rig.slabs.lentCount, rig.engine.load.isMemoryShort]).toEqual([0, false]);
    expect(rig.clock.pendingCount).toBe(0);
  });

  test("lists what is open and how much of it is cached", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)), (fake) => {
      fake.extents = [blocks(0, 5)];
    });
    expect(rig.engine.openObjects).toEqual([
      {
        volumeKey: "erofs,erofsd",
        cookieKey: "key-1",
        cachedBytes: 5 * B,
        sizeBytes: 20 * B,
      },
    ]);
    expect(rig.engine.isOpen(object.volumeKey, "key-1")).toBe(true);
    rig.close(object);
    expect(rig.engine.isOpen(object.volumeKey, "key-1")).toBe(false);
  });
});
