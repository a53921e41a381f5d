// SPDX-License-Identifier: Apache-2.0
// Wrong bytes are fetched again for as long as a reader may wait: at once from elsewhere, then
// after pauses. A blob that is damaged itself is asked for seldom, and its next readers know soon.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { WrongBytes } from "../../../src/flow/wrong-bytes.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import type { FakeObject, FakeRead } from "../../support/fake-kernel.ts";
import { codeOf } from "../../support/fault-code.ts";
import { FlowRig, LIMITS, blocks, patternBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const PATIENCE_MS = 9_500;
describe("the pause before the next try", () => {
  test("grows to two seconds, and is short again before a reader's time is up", async () => {
    const clock = new FakeClock();
    const wrong = new WrongBytes(clock, PATIENCE_MS);
    const startMs = clock.nowMs();
    expect(wrong.noted(blocks(0, 4), { isSecondTry: false, newestMs: startMs })).toBe(0);
    const pauses: number[] = [];
    for (;;) {
      const of = { isSecondTry: true, newestMs: startMs };
      const pauseMs = wrong.noted(blocks(0, 4), of);
      if (pauseMs === undefined) break;
      pauses.push(pauseMs);
      await clock.advance(pauseMs);
    }
    expect(pauses.slice(0, 6)).toEqual([100, 200, 400, 800, 1600, 2000]);
    expect(Math.min(...pauses)).toBeGreaterThanOrEqual(100);
    expect(Math.max(...pauses)).toBe(2000);
    expect(pauses.length).toBeLessThan(14);
    const leftMs = startMs + PATIENCE_MS - clock.nowMs();
    expect(leftMs).toBeGreaterThan(0);
    expect(leftMs).toBeLessThan(200);
  });

  test("is none when the newest reader has waited for long, whatever it waited for", () => {
    const clock = new FakeClock(20_000);
    const wrong = new WrongBytes(clock, PATIENCE_MS);
    const of = { isSecondTry: true, newestMs: 20_000 - PATIENCE_MS };
    expect(wrong.noted(blocks(0, 4), of)).toBeUndefined();
  });

  test("is of these bytes alone, and begins anew once they were right or long ago", async () => {
    const clock = new FakeClock();
    const wrong = new WrongBytes(clock, PATIENCE_MS);
    const note = (first: number): number | undefined =>
      wrong.noted(blocks(first, first + 4), { isSecondTry: true, newestMs: clock.nowMs() });
    expect([note(0), note(0), note(4)]).toEqual([100, 200, 100]);
    wrong.right(blocks(0, 2));
    expect([note(0), note(4)]).toEqual([100, 200]);
    await clock.advance(10_000);
    expect(note(4)).toBe(100);
  });
});

class Rig extends FlowRig {
  readonly content = patternBytes(6 * 4096 - 5);
  readonly #wrong = patternBytes(this.content.length, 2);

  /** Every fetch is answered at once, wrongly, for so long. */
  async lieFor(ms: number): Promise<void> {
    for (const endMs = this.clock.nowMs() + ms; this.clock.nowMs() < endMs; ) {
      for (const fetch of this.source.open) fetch.giveBytes(this.#wrong).end();
      await this.clock.advance(10);
    }
  }

  async opened(): Promise<FakeObject> {
    return this.open(this.blob(this.content));
  }
}

const answers = (reads: readonly FakeRead[]): string[] => reads.map(({ answer }) => answer);

describe("a reader of wrong bytes", () => {
  test("has his bytes once they are right, and so has whoever came in a pause", async () => {
    const rig = new Rig();
    const [one, two] = [await rig.opened(), await rig.opened()];
    const first = rig.read(one, 0, 1);
    await rig.lieFor(2_000);
    const before = rig.source.fetches.length;
    expect(before).toBe(6);
    const reads = [first, rig.read(one, 2, 3), rig.read(two, 0, 4)];
    await rig.clock.advance(500);
    // Nothing is fetched for those who came while it was waited.
    expect([answers(reads), rig.source.fetches.length]).toEqual([
      ["waiting", "waiting", "waiting"],
      before,
    ]);
    await rig.clock.advance(1_500);
    await rig.drain();
    expect(answers(reads)).toEqual(["complete", "complete", "complete"]);
    expect(rig.source.fetches.length).toBe(before + 1);
    const isElsewhere = rig.source.fetches.map(({ options }) => options.avoidPeers);
    expect(isElsewhere).toEqual([false, ...Array.from({ length: before }, () => true)]);
  });

  test("fails when they stay wrong for as long as he may wait, and is told why", async () => {
    const rig = new Rig();
    const object = await rig.opened();
    const read = rig.read(object, 0, 1);
    await rig.lieFor(0.9 * LIMITS.readTimeoutMs);
    expect(read.answer).toBe("waiting");
    await rig.lieFor(0.1 * LIMITS.readTimeoutMs);
    expect([read.answer, codeOf(read.error)]).toEqual(["failed", "digest_mismatch"]);
    expect(rig.source.fetches.length).toBeLessThan(15);
    expect([rig.slabs.lentCount, rig.clock.pendingCount, object.writeCount]).toEqual([0, 0, 0]);
  });

  test("who comes soon after one that failed has one more try, and no second deadline", async () => {
    const rig = new Rig();
    const object = await rig.opened();
    const first = rig.read(object, 0, 1);
    await rig.lieFor(LIMITS.readTimeoutMs);
    const atOnce = rig.read(object, 2, 3);
    expect([first.answer, codeOf(atOnce.error)]).toEqual(["failed", "failed_recently"]);
    await rig.clock.advance(1_500);
    const before = rig.source.fetches.length;
    const next = rig.read(object, 0, 6);
    await rig.lieFor(50);
    expect([codeOf(next.error), rig.source.fetches.length]).toEqual([
      "digest_mismatch",
      before + 2,
    ]);
    await rig.clock.advance(1_500);
    const last = rig.read(object, 0, 6);
    await rig.drain();
    expect(last.answer).toBe("complete");
  });

  test("fails at once when everything is cancelled in a pause, and nothing is fetched then", async () => {
    const rig = new Rig();
    const read = rig.read(await rig.opened(), 0, 1);
    await rig.lieFor(1_000);
    const before = rig.source.fetches.length;
    rig.engine.abort(new DaemonError({ code: "stopping" }));
    await turns();
    expect(codeOf(read.error)).toBe("stopping");
    await rig.clock.advance(LIMITS.readTimeoutMs);
    expect([rig.source.fetches.length, rig.clock.pendingCount]).toEqual([before, 0]);
  });

  test("leaves no pause behind when the last object is closed", async () => {
    const rig = new Rig();
    const object = await rig.opened();
    rig.read(object, 0, 1);
    await rig.lieFor(1_000);
    rig.close(object);
    expect(rig.clock.pendingCount).toBe(0);
  });
});
