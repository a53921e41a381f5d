// SPDX-License-Identifier: Apache-2.0
// The way of a miss: what is fetched, when readers are answered, and what each failure costs.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { codeOf } from "../../support/fault-code.ts";
import { FlowRig, LIMITS, blocks, patternBytes, sameBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;
const unreachable = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });
const noSpace = new DaemonError({ code: "cache_no_space", key: "k", detail: "full" });

describe("a miss", () => {
  test("is answered as soon as its own bytes are written, before the window has arrived", async () => {
    const rig = new FlowRig();
    const content = patternBytes(20 * B);
    const object = await rig.open(rig.blob(content));
    const read = rig.read(object, 2, 3);
    await turns();
    expect(rig.source.fetches.map(({ extent }) => extent)).toEqual([blocks(2, 10)]);
    rig.source.fetches[0]?.give(B - 1);
    await turns();
    expect(read.answer).toBe("waiting");
    rig.source.fetches[0]?.give(1);
    await turns();
    expect(read.answer).toBe("complete");
    expect(object.hasWritten(blocks(2, 3))).toBe(true);
    rig.source.fetches[0]?.finish();
    await turns();
    expect(sameBytes(object.file.subarray(2 * B, 10 * B), content.subarray(2 * B, 10 * B))).toBe(
      true,
    );
    expect([rig.slabs.lentCount, rig.clock.pendingCount]).toEqual([0, 0]);
  });

  test("of what is cached already is answered at once and fetches nothing", async () => {
    const rig = new FlowRig();
    const content = patternBytes(20 * B);
    const object = await rig.open(rig.blob(content), (fake) => {
      fake.extents = [blocks(0, 20)];
    });
    expect(rig.read(object, 4, 9).answer).toBe("complete");
    expect(rig.source.fetches).toEqual([]);
  });

  test("past the end of the stream is answered at once", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(2 * B)));
    expect(rig.read(object, 2, 3).answer).toBe("complete");
    expect(rig.source.fetches).toEqual([]);
  });

  test("at the tail gets zeros behind the last byte, not what the buffer held before", async () => {
    const rig = new FlowRig();
    const content = patternBytes(9 * B + 100);
    const object = await rig.open(rig.blob(content));
    const read = rig.read(object, 9, 10);
    await turns();
    expect(rig.source.fetches[0]?.extent).toEqual({ offset: 9 * B, length: 100 });
    rig.source.fetches[0]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
    const tail = new Uint8Array(B);
    tail.set(content.subarray(9 * B));
    expect(sameBytes(object.file.subarray(9 * B, 10 * B), tail)).toBe(true);
  });

  test("longer than a buffer is answered when the last of its fetches is written", async () => {
    const rig = new FlowRig({ slabBlocks: 4, limits: { windowBytes: 4 * B } });
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    const read = rig.read(object, 0, 10);
    await turns();
    expect(rig.source.fetches.map(({ extent }) => extent)).toEqual([
      blocks(0, 4),
      blocks(4, 8),
      blocks(8, 10),
    ]);
    rig.source.fetches[2]?.finish();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(read.answer).toBe("waiting");
    rig.source.fetches[1]?.finish();
    await turns();
    expect(read.answer).toBe("complete");
  });

  test("waits its turn for a buffer when all are in use", async () => {
    const rig = new FlowRig({ slabsMax: 1, limits: { windowBytes: B } });
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    const first = rig.read(object, 0, 1);
    const second = rig.read(object, 10, 11);
    await turns();
    expect(rig.source.fetches).toHaveLength(1);
    rig.source.fetches[0]?.finish();
    await turns();
    expect([first.answer, second.answer, rig.source.fetches.length]).toEqual([
      "complete",
      "waiting",
      2,
    ]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect(second.answer).toBe("complete");
  });
});

describe("a sequential reader", () => {
  test("is answered as soon as its own bytes are there, like everybody", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    rig.read(object, 0, 1);
    await turns();
    rig.source.fetches[0]?.give(B);
    await turns();
    const next = rig.read(object, 1, 2);
    await turns();
    expect(next.answer).toBe("waiting");
    rig.source.fetches[0]?.give(B);
    await turns();
    expect(next.answer).toBe("complete");
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.clock.pendingCount).toBe(0);
  });

  test("is answered at once when the window is complete", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    rig.read(object, 0, 1);
    const next = rig.read(object, 1, 2);
    await turns();
    rig.source.fetches[0]?.finish();
    await turns();
    expect(next.answer).toBe("complete");
    expect(rig.clock.pendingCount).toBe(0);
  });
});

describe("readers of the same bytes", () => {
  test("share one fetch, and each gets its own answer", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    const reads = [rig.read(object, 0, 1), rig.read(object, 0, 1), rig.read(object, 5, 7)];
    await turns();
    // One who reads on is read ahead for; nothing of the first window is asked for again.
    expect(rig.asked).toEqual(["demand 0-8", "ahead 8-16", "ahead 16-20"]);
    rig.source.fetches[0]?.finish();
    await turns();
    expect(reads.map(({ answer }) => answer)).toEqual(["complete", "complete", "complete"]);
  });

  test("in two objects of one stream share one fetch, and both files get the bytes", async () => {
    const rig = new FlowRig();
    const content = patternBytes(20 * B);
    const blob = rig.blob(content);
    const one = await rig.open(blob);
    const read = rig.read(one, 0, 1);
    await turns();
    rig.source.fetches[0]?.give(3 * B);
    await turns();
    const two = await rig.open(blob);
    const late = rig.read(two, 2, 4);
    rig.source.fetches[0]?.finish();
    await turns();
    expect([read.answer, late.answer]).toEqual(["complete", "complete"]);
    // The second reader's window goes on where the shared fetch ends.
    expect(rig.asked).toEqual(["demand 0-8", "ahead 8-10"]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect(sameBytes(two.file.subarray(0, 10 * B), content.subarray(0, 10 * B))).toBe(true);
    expect(sameBytes(one.file, two.file)).toBe(true);
  });

  test("a read that starts in one flight and ends past it fetches only the rest", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(40 * B)));
    rig.read(object, 0, 1);
    const across = rig.read(object, 6, 10);
    await turns();
    expect(rig.asked).toEqual(["demand 0-8", "demand 8-16", "ahead 16-24"]);
    rig.source.fetches[1]?.finish();
    await turns();
    expect(across.answer).toBe("waiting");
    rig.source.fetches[0]?.finish();
    await turns();
    expect(across.answer).toBe("complete");
    // The rest of a doubled window had to wait for memory that is kept for demand.
    expect(rig.asked.slice(3)).toEqual(["ahead 24-26"]);
  });
});

describe("a fetch that fails", () => {
  test("fails its readers, answers the ones whose bytes had come, and is remembered for a second", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    const served = rig.read(object, 0, 1);
    const failed = rig.read(object, 4, 5);
    await turns();
    rig.source.fetches[0]?.give(2 * B).fail(unreachable);
    await turns();
    expect([served.answer, failed.answer]).toEqual(["complete", "failed"]);
    expect(codeOf(failed.error)).toBe("registry_unreachable");
    expect(rig.fillFailures.map(({ keys }) => keys)).toEqual([["key-1"]]);

    const again = rig.read(object, 4, 5);
    expect([again.answer, codeOf(again.error)]).toEqual(["failed", "failed_recently"]);
    expect(rig.asked).toEqual(["demand 0-8", "ahead 8-16", "ahead 16-20"]);

    await rig.clock.advance(1000);
    const later = rig.read(object, 4, 5);
    await turns();
    expect(rig.asked.slice(3)).toEqual(["demand 4-8"]);
    rig.source.fetches[3]?.finish();
    await turns();
    expect(later.answer).toBe("complete");
    await rig.drain();
    expect(rig.slabs.lentCount).toBe(0);
  });

  test("does not fail bytes that had arrived but were still on their way into the file", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)), (fake) => {
      fake.holdsWrites = true;
    });
    const early = rig.read(object, 0, 1);
    const middle = rig.read(object, 1, 2);
    await turns();
    rig.source.fetches[0]?.give(2 * B + 17).fail(unreachable);
    await turns();
    for (const write of object.writes.splice(0)) write.finish();
    await turns();
    for (const write of object.writes.splice(0)) write.finish();
    await turns();
    expect([early.answer, middle.answer]).toEqual(["complete", "complete"]);
    expect(object.hasWritten(blocks(2, 3))).toBe(false);
  });

  test.each([
    ["resolves early", (rig: FlowRig) => rig.source.fetches[0]?.give(3 * B).end()],
    ["gives nothing", (rig: FlowRig) => rig.source.fetches[0]?.end()],
    [
      "gives too much",
      (rig: FlowRig) => {
        rig.source.fetches[0]?.give(8 * B - 5).giveBytes(new Uint8Array(6).fill(0x55));
        if (rig.source.fetches[0]?.ended === false) rig.source.fetches[0].end();
      },
    ],
  ])("because the source %s never puts other bytes into the file", async (_what, play) => {
    const rig = new FlowRig();
    const content = patternBytes(40 * B);
    const object = await rig.open(rig.blob(content));
    const read = rig.read(object, 7, 8);
    const last = rig.read(object, 14, 15);
    await turns();
    play(rig);
    await turns();
    expect(last.answer).toBe("failed");
    expect(read.answer).not.toBe("waiting");
    await rig.drain();
    for (let block = 0; block < 40; block += 1) {
      if (!object.hasWritten(blocks(block, block + 1))) continue;
      const [from, end] = [block * B, (block + 1) * B];
      expect(sameBytes(object.file.subarray(from, end), content.subarray(from, end))).toBe(true);
    }
    // What failed is not fetched again for nobody, nor the rest of it failed with it.
    expect(rig.asked.filter((one) => one.startsWith("demand"))).toEqual(["demand 7-15"]);
    expect(object.hasWritten(blocks(15, 31))).toBe(true);
    expect(rig.slabs.lentCount).toBe(0);
  });

  test("pieces that come after it was given up are not written", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    rig.read(object, 0, 1);
    await turns();
    const fetch = rig.source.fetches[0];
    fetch?.fail(unreachable);
    await turns();
    fetch?.give();
    await turns();
    expect(object.writeCount).toBe(0);
    expect(rig.slabs.lentCount).toBe(0);
  });
});

describe("time", () => {
  test("a reader is answered by its deadline when the source stalls, with a cause", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    const read = rig.read(object, 0, 1);
    await rig.clock.advance(LIMITS.readTimeoutMs - 1);
    expect(read.answer).toBe("waiting");
    await rig.clock.advance(1);
    expect([read.answer, codeOf(read.error)]).toEqual(["failed", "deadline_exceeded"]);
    const again = rig.read(object, 0, 1);
    expect(again.answer).toBe("failed");
  });

  test("a fetch gives up before its reader does", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    const startMs = rig.clock.nowMs();
    rig.read(object, 0, 1);
    await turns();
    const deadlineMs = rig.source.fetches[0]?.options.deadlineMs ?? 0;
    expect(deadlineMs).toBeGreaterThan(startMs);
    expect(deadlineMs).toBeLessThan(startMs + LIMITS.readTimeoutMs);
  });

  test("a reader waiting for a buffer is answered by its deadline", async () => {
    const rig = new FlowRig({ slabsMax: 1, limits: { windowBytes: B } });
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    rig.read(object, 0, 1);
    const starved = rig.read(object, 10, 11);
    await rig.clock.advance(LIMITS.readTimeoutMs);
    expect(starved.answer).toBe("failed");
  });

  test("a reader of an object that never finishes loading is answered by its deadline", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)), (fake) => {
      fake.extents = new Promise(() => undefined);
    });
    const read = rig.read(object, 0, 1);
    await rig.clock.advance(LIMITS.readTimeoutMs);
    expect([read.answer, codeOf(read.error)]).toEqual(["failed", "deadline_exceeded"]);
  });

  test("bytes that come after the deadline serve the next reader", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)));
    rig.read(object, 0, 1);
    await rig.clock.advance(LIMITS.readTimeoutMs);
    rig.source.fetches[0]?.finish();
    await turns();
    expect(rig.read(object, 0, 1).answer).toBe("complete");
  });
});

describe("writing that fails", () => {
  test("fails only that object's readers, and is remembered for that object alone", async () => {
    const rig = new FlowRig();
    const blob = rig.blob(patternBytes(20 * B));
    const full = await rig.open(blob, (fake) => {
      fake.holdsWrites = true;
    });
    const fine = await rig.open(blob);
    const lost = rig.read(full, 0, 1);
    const served = rig.read(fine, 0, 1);
    await turns();
    rig.source.fetches[0]?.finish();
    await turns();
    for (const write of full.writes.splice(0)) write.fail(noSpace);
    await turns();
    expect([lost.answer, codeOf(lost.error), served.answer]).toEqual([
      "failed",
      "cache_no_space",
      "complete",
    ]);
    expect(rig.read(full, 0, 1).answer).toBe("failed");
    expect(rig.slabs.lentCount).toBe(0);
    expect(rig.read(fine, 3, 4).answer).toBe("complete");
    full.holdsWrites = false;
    await rig.clock.advance(1000);
    const retried = rig.read(full, 0, 1);
    await turns();
    expect(rig.asked).toEqual(["demand 0-8", "ahead 8-16", "ahead 16-20", "demand 0-8"]);
    rig.source.fetches[3]?.finish();
    await turns();
    expect(retried.answer).toBe("complete");
  });

  test("cancels a fetch that nobody else wants", async () => {
    const rig = new FlowRig();
    const object = await rig.open(rig.blob(patternBytes(20 * B)), (fake) => {
      fake.holdsWrites = true;
    });
    rig.read(object, 0, 1);
    await turns();
    rig.source.fetches[0]?.give(B);
    await turns();
    for (const write of object.writes.splice(0)) write.fail(noSpace);
    await turns();
    expect(rig.source.open).toEqual([]);
    expect(rig.slabs.lentCount).toBe(0);
  });
});
