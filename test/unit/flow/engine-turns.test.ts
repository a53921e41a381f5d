// SPDX-License-Identifier: Apache-2.0
// Who gets the wire and the memory when there is not enough for all; what second tries, closing
// and stopping do to those who wait for their turn.

import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { codeOf } from "../../support/fault-code.ts";
import { FlowRig, blocks, patternBytes, sameBytes } from "../../support/flow-rig.ts";
import { jobOf, opened as openedForPrefetch } from "../../support/prefetch-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const unreachable = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });
const noSpace = new DaemonError({ code: "cache_no_space", key: "k", detail: "full" });

describe("fairness", () => {
  test("a huge file's full window does not delay another object's first byte", async () => {
    const rig = new FlowRig({ slabBlocks: 4, slabsMax: 8, limits: { requestsPerHost: 5 } });
    const huge = await rig.open(rig.blob(patternBytes(200 * B)));
    const other = await rig.open(rig.blob(patternBytes(200 * B, 2)));
    for (const at of [0, 4]) rig.read(huge, at, at + 1);
    await turns();
    for (const fetch of rig.source.fetches.slice(0, 2)) fetch.finish();
    await turns();
    // All that read-ahead may have is in the air, and more of it waits.
    expect(rig.asked).toEqual([
      "demand 0-4",
      "demand 4-8",
      "ahead 8-12",
      "ahead 12-16",
      "ahead 16-20",
    ]);
    expect(rig.engine.load.isMemoryShort).toBe(true);
    const first = rig.read(other, 100, 101);
    await turns();
    expect(rig.asked.slice(5)).toEqual(["demand 100-104"]);
    rig.source.fetches[5]?.give(B);
    await turns();
    expect(first.answer).toBe("complete");
  });

  test("of two who wait for the wire, the one who has less of it goes first", async () => {
    const rig = new FlowRig({ slabsMax: 16, limits: { requestsPerHost: 2 } });
    const [huge, other] = [
      await rig.open(rig.blob(patternBytes(200 * B))),
      await rig.open(rig.blob(patternBytes(200 * B, 2))),
    ];
    rig.read(huge, 0, 24);
    await turns();
    expect(rig.asked).toEqual(["demand 0-8", "demand 8-16"]);
    rig.read(other, 50, 51);
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.asked.slice(2)).toEqual(["demand 50-58"]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect(rig.asked.slice(3)).toEqual(["demand 16-24"]);
  });
});

describe("demand", () => {
  test("overtakes read-ahead that waits for the same host", async () => {
    const rig = new FlowRig({ slabsMax: 16, limits: { requestsPerHost: 3 } });
    const object = await rig.open(rig.blob(patternBytes(200 * B)));
    for (const at of [0, 4]) rig.read(object, at, at + 1);
    await turns();
    rig.read(object, 150, 151);
    rig.read(object, 180, 181);
    await turns();
    // A place is kept for demand; the second one waits for the next.
    expect(rig.asked).toEqual(["demand 0-8", "ahead 8-16", "demand 150-158"]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect(rig.asked.slice(3)).toEqual(["demand 180-188"]);
  });

  test("overtakes prefetch that waits, and joins the part of it that it needs", async () => {
    const { rig, object } = await openedForPrefetch(200);
    await rig.quiet();
    expect(rig.asked).toEqual(["prefetch 0-8"]);
    const [joins, comes] = [rig.read(object, 3, 4), rig.read(object, 100, 101)];
    await turns();
    expect(rig.asked).toEqual(["prefetch 0-8", "ahead 8-11", "demand 100-108"]);
    await rig.finishAll();
    expect([joins.answer, comes.answer]).toEqual(["complete", "complete"]);
    expect(rig.asked.filter((one) => one.endsWith(" 0-8"))).toHaveLength(1);
  });

  test("queued prefetch that a reader comes to need goes as demand", async () => {
    const { rig, object } = await openedForPrefetch(200);
    const far = rig.blob(patternBytes(400 * B, 7));
    const elsewhere = await rig.open(far);
    // All memory that background work may have is lent, so that prefetch has to wait.
    for (const at of [0, 50, 100]) rig.read(elsewhere, at, at + 8);
    await turns();
    const flow = rig.engine.flowOf(rig.stream(far));
    flow.launch(blocks(300, 308), { urgency: "prefetch", deadlineMs: 9_000, group: rig });
    await turns();
    expect(rig.asked).toEqual(["demand 0-8", "demand 50-58", "demand 100-108"]);
    const read = rig.read(elsewhere, 302, 303);
    await turns();
    expect(rig.asked.slice(3)).toEqual(["demand 300-308"]);
    await rig.finishAll();
    expect(read.answer).toBe("complete");
    expect(object.writeCount).toBe(0);
  });
});

describe("short memory", () => {
  test("with a pool of one buffer, demand is served before read-ahead that came first", async () => {
    const rig = new FlowRig({ slabsMax: 1 });
    const object = await rig.open(rig.blob(patternBytes(200 * B)));
    for (const at of [0, 4]) rig.read(object, at, at + 1);
    const read = rig.read(object, 100, 101);
    await turns();
    expect(rig.asked).toEqual(["demand 0-8"]);
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.asked).toEqual(["demand 0-8", "demand 100-108"]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect([read.answer, rig.asked.at(-1)]).toEqual(["complete", "ahead 8-16"]);
    await rig.drain();
    expect(rig.asked).toHaveLength(3);
  });
});

describe("read-ahead that fails", () => {
  test("fails no reader: who waits for it gets a fetch of its own, of what it lacks alone", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(200 * B)));
    for (const at of [0, 4]) rig.read(object, at, at + 1);
    await turns();
    const read = rig.read(object, 10, 12);
    await turns();
    expect(rig.asked.slice(0, 2)).toEqual(["demand 0-8", "ahead 8-16"]);
    rig.source.fetches[1]?.fail(unreachable);
    await turns();
    expect([read.answer, rig.fillFailures]).toEqual(["waiting", []]);
    const own = rig.source.fetches.findLast(({ options }) => options.urgency === "demand");
    expect([own?.extent, own?.options.avoidPeers]).toEqual([blocks(10, 12), true]);
    own?.fail(unreachable);
    await turns();
    expect([read.answer, read.error]).toEqual(["failed", unreachable]);
    expect(rig.fillFailures).toHaveLength(1);
  });

  test("and that nobody waits for is not fetched again, nor remembered", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(200 * B)));
    for (const at of [0, 4]) rig.read(object, at, at + 1);
    await turns();
    const before = rig.asked.length;
    rig.source.fetches[1]?.fail(unreachable);
    await turns();
    expect([rig.asked.length, rig.log.messages("warn")]).toEqual([before, []]);
    const read = rig.read(object, 8, 9);
    await rig.drain();
    expect(read.answer).toBe("complete");
  });
});

describe("what a reader waits for", () => {
  test("is written first, with what is there of what follows, while the rest is still to come", async () => {
    const rig = new FlowRig({ slabBlocks: 256, limits: { windowBytes: 256 * B } });
    const content = patternBytes(400 * B);
    const object = await rig.open(rig.blob(content), (fake) => {
      fake.holdsWrites = true;
    });
    await rig.measureLink(5);
    const read = rig.read(object, 20, 22);
    await turns();
    expect(rig.asked).toEqual(["demand 20-270", "ahead 270-276"]);
    rig.source.fetches[0]?.give(100 * B);
    await turns();
    expect(object.writes.map(({ range }) => [range.fileOffset / B, range.length / B])).toEqual([
      [20, 100],
    ]);
    object.writes.shift()?.finish();
    await turns();
    expect([read.answer, object.writes.length]).toEqual(["complete", 0]);
    await rig.drain(object);
    expect(
      sameBytes(object.file.subarray(20 * B, 276 * B), content.subarray(20 * B, 276 * B)),
    ).toBe(true);
    // The first, the rest of its fetch, and the rest of the window.
    expect(object.writeCount).toBe(3);
  });

  test("in the middle of a window goes before what was there earlier", async () => {
    const rig = new FlowRig({ slabBlocks: 256, limits: { windowBytes: 256 * B } });
    const blob = rig.blob(patternBytes(400 * B));
    const [one, two] = [await rig.open(blob), await rig.open(blob)];
    two.holdsWrites = true;
    await rig.measureLink(5);
    const [first, middle] = [rig.read(one, 0, 5), rig.read(two, 150, 155)];
    await turns();
    expect(rig.asked.slice(0, 1)).toEqual(["demand 0-250"]);
    rig.source.fetches[0]?.give(153 * B);
    await turns();
    // Part of what it waits for is not worth a write.
    expect([first.answer, two.writes.length]).toEqual(["complete", 0]);
    rig.source.fetches[0]?.give(47 * B);
    await turns();
    expect(two.writes.map(({ range }) => [range.fileOffset / B, range.length / B])).toEqual([
      [150, 50],
    ]);
    two.writes.shift()?.finish();
    await turns();
    expect(middle.answer).toBe("complete");
  });
});

describe("an object that closes", () => {
  test("takes its queued turns with it: nothing of it is fetched any more", async () => {
    const rig = new FlowRig({ slabsMax: 2, limits: { requestsPerHost: 4 } });
    const object = await rig.open(rig.blob(patternBytes(200 * B)));
    const reads = [0, 4, 60, 90, 120].map((at) => rig.read(object, at, at + 1));
    await turns();
    const before = rig.source.fetches.length;
    expect([before, rig.engine.load.isMemoryShort]).toEqual([2, true]);
    for (const read of reads) read.withdraw();
    rig.close(object);
    await turns();
    await rig.clock.advance(20_000);
    expect([rig.source.fetches.length, rig.source.open]).toEqual([before, []]);
    expect([rig.slabs.lentCount, rig.engine.load.isMemoryShort]).toEqual([0, false]);
    for (const { options } of rig.source.fetches) {
      expect(options.signal.aborted).toBe(true);
    }
  });

  test("leaves queued turns to the other object that waits for them", async () => {
    const rig = new FlowRig({ slabsMax: 1 });
    const blob = rig.blob(patternBytes(200 * B));
    const [one, two] = [await rig.open(blob), await rig.open(blob)];
    rig.read(one, 0, 1);
    const [gone, stays] = [rig.read(one, 100, 101), rig.read(two, 100, 101)];
    gone.withdraw();
    rig.close(one);
    await rig.drain();
    expect([gone.answer, stays.answer]).toEqual(["gone", "complete"]);
    // Read-ahead of the first flight went with the object; only it wanted it.
    expect(rig.asked).toEqual(["demand 0-8", "demand 100-108"]);
  });
});

describe("an engine that stops", () => {
  test("fails all who wait for a turn, and fetches nothing any more", async () => {
    const rig = new FlowRig({ slabsMax: 2, limits: { requestsPerHost: 2 } });
    const objects = [
      await rig.open(rig.blob(patternBytes(200 * B))),
      await rig.open(rig.blob(patternBytes(200 * B, 2))),
    ];
    const reads = objects.flatMap((object) =>
      [0, 40, 80].map((at) => rig.read(object, at, at + 1)),
    );
    await turns();
    const before = rig.source.fetches.length;
    rig.engine.abort(new DaemonError({ code: "stopping" }));
    await turns();
    expect(reads.map(({ error }) => codeOf(error))).toEqual(reads.map(() => "stopping"));
    expect(rig.source.fetches).toHaveLength(before);
    expect([rig.slabs.lentCount, rig.engine.load.isMemoryShort]).toEqual([0, false]);
    expect([rig.engine.waitingReads, rig.clock.pendingCount]).toEqual([0, 0]);
  });

  test("begins no turn that was granted in the same moment", async () => {
    const rig = new FlowRig({ slabsMax: 4, limits: { requestsPerHost: 8 } });
    const object = await rig.open(rig.blob(patternBytes(200 * B)));
    const read = rig.read(object, 0, 1);
    rig.engine.abort(new DaemonError({ code: "stopping" }));
    await turns();
    expect([codeOf(read.error), rig.source.fetches.length]).toEqual(["stopping", 0]);
    expect(rig.slabs.lentCount).toBe(0);
  });

  test("gives no second try to what fails in the same moment", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(200 * B)));
    for (const at of [0, 4]) rig.read(object, at, at + 1);
    await turns();
    const read = rig.read(object, 10, 11);
    await turns();
    const before = rig.source.fetches.length;
    // Read-ahead, whose failure would mean a fetch of its own to the reader.
    rig.source.fetches[1]?.fail(unreachable);
    rig.engine.abort(new DaemonError({ code: "stopping" }));
    await turns();
    expect([read.answer, rig.source.fetches.length]).toEqual(["failed", before]);
    expect(rig.source.open).toEqual([]);
  });
});

test("a write that fails while read-ahead waits for its turn leaves no listener behind", async () => {
  const rig = new FlowRig({ slabsMax: 1 });
  const object = await rig.open(rig.blob(patternBytes(40 * B)), (fake) => {
    fake.holdsWrites = true;
  });
  const reads = [0, 4].map((at) => rig.read(object, at, at + 1));
  await turns();
  rig.source.fetches[0]?.finish();
  await turns();
  object.writes.shift()?.fail(noSpace);
  await turns();
  expect(reads.map(({ error }) => codeOf(error))).toEqual(["cache_no_space", "cache_no_space"]);
  await rig.drain(object);
  expect([rig.slabs.lentCount, rig.clock.pendingCount]).toEqual([0, 0]);
  for (const { options } of rig.source.fetches) {
    expect(getEventListeners(options.signal, "abort")).toEqual([]);
  }
});

test("two jobs of prefetch and a reader of each image: readers first, then the jobs in turns", async () => {
  const { rig, blob } = await openedForPrefetch(60);
  const second = rig.blob(patternBytes(60 * B, 3));
  rig.prefetcher.start("b", jobOf([second]));
  const object = await rig.open(second);
  const read = rig.read(object, 50, 51);
  await turns();
  expect(rig.asked).toEqual(["demand 50-58"]);
  rig.source.fetches[0]?.finish();
  await rig.quiet();
  expect(read.answer).toBe("complete");
  expect(rig.asked.slice(1)).toEqual(["prefetch 0-8"]);
  rig.source.fetches[1]?.finish();
  await turns();
  const digests = rig.source.fetches.slice(1).map((fetch) => fetch.blob.digest);
  expect(new Set(digests)).toEqual(new Set([blob.digest, second.digest]));
});

/** A fetch that a second reader joins when most of the first one's time is over. */
async function oneLate() {
  const rig = new FlowRig();
  const object = await rig.open(rig.blob(patternBytes(100 * BLOCK_BYTES)));
  const first = rig.read(object, 0, 1);
  await rig.clock.advance(8_000);
  return { rig, object, first, second: rig.read(object, 0, 1) };
}

test("a reader who joins a fetch that ends too late for the one before him gets another", async () => {
  const { rig, object, first, second } = await oneLate();
  const late = { code: "deadline_exceeded", what: "a fetch", timeoutMs: 9_500 } as const;
  rig.source.open[0]?.fail(new DaemonError(late));
  await turns();
  expect([first.answer, second.answer]).toEqual(["waiting", "waiting"]);
  rig.source.open[0]?.finish();
  await turns();
  await rig.drain(object);
  expect([first.answer, second.answer]).toEqual(["complete", "complete"]);
  expect(rig.source.fetches).toHaveLength(2);
});

test("a reader who joins a fetch late does not fail with what its last try met", async () => {
  const { rig, first, second } = await oneLate();
  const gone = { code: "registry_unreachable", host: "h", detail: "refused" } as const;
  rig.source.open[0]?.fail(new DaemonError(gone));
  await turns();
  rig.source.open[0]?.fail(new DaemonError(gone));
  await turns();
  // The other fetch had all the time that the second reader has.
  expect([first.answer, second.answer]).toEqual(["failed", "failed"]);
  expect(rig.source.fetches).toHaveLength(2);
});

test("a reader whose own time is up with the fetch's is told why it failed", async () => {
  const rig = new FlowRig();
  const object = await rig.open(rig.blob(patternBytes(100 * BLOCK_BYTES)));
  const read = rig.read(object, 0, 1);
  await rig.clock.advance(9_500);
  const late = { code: "deadline_exceeded", what: "a fetch", timeoutMs: 9_500 } as const;
  rig.source.open[0]?.fail(new DaemonError(late));
  await turns();
  expect(read.answer).toBe("failed");
  expect(rig.source.fetches).toHaveLength(1);
});
