// SPDX-License-Identifier: Apache-2.0
// What a trace holds, and that nobody who reads waits for whoever records.

import { describe, expect, test } from "vitest";
import { TraceRecorder } from "../../../src/control/trace-recorder.ts";
import { parseTrace } from "../../../src/image/trace-format.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { thrownBy } from "../../support/fault-code.ts";
import { FlowRig, blocks, patternBytes } from "../../support/flow-rig.ts";

const never = new AbortController().signal;
const ALL = { seconds: undefined, keys: [] };

async function rigOf() {
  const rig = new FlowRig();
  const { engine, clock } = rig;
  const recorder = new TraceRecorder({ engine, clock, version: "1.2.3", unixMs: () => 0 });
  const blob = rig.blob(patternBytes(20 * BLOCK_BYTES));
  const object = await rig.open(blob, (fake) => {
    fake.extents = [blocks(0, 20)];
  });
  return { rig, recorder, blob, object };
}

async function textOf(pieces: AsyncIterable<string>): Promise<string> {
  let text = "";
  for await (const piece of pieces) text += piece;
  return text;
}

describe("a trace", () => {
  test("names each stream once, and each READ with its time", async () => {
    const { rig, recorder, blob, object } = await rigOf();
    const trace = recorder.record({ seconds: 2, keys: [] }, never);
    rig.read(object, 0, 1);
    await rig.clock.advance(500);
    rig.read(object, 4, 6);
    await rig.clock.advance(2000);
    rig.read(object, 7, 8);
    const lines = (await textOf(trace)).trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
      { erofsdTrace: 1, startedAt: "1970-01-01T00:00:00.000Z", version: "1.2.3" },
      { stream: 0, digest: blob.digest, key: object.cookieKey, sizeBytes: 20 * BLOCK_BYTES },
      { ms: 0, stream: 0, offset: 0, length: BLOCK_BYTES },
      { ms: 500, stream: 0, offset: 4 * BLOCK_BYTES, length: 2 * BLOCK_BYTES },
      { end: "time", reads: 2, dropped: 0 },
    ]);
  });

  test("is only of the keys or digests that were asked for", async () => {
    const { rig, recorder, object } = await rigOf();
    const other = rig.blob(patternBytes(4 * BLOCK_BYTES, 2));
    const otherObject = await rig.open(other);
    const byKey = recorder.record({ seconds: 1, keys: [object.cookieKey] }, never);
    const byDigest = recorder.record({ seconds: 1, keys: [other.digest] }, never);
    rig.read(object, 0, 1);
    rig.read(otherObject, 1, 2);
    await rig.clock.advance(1000);
    expect(parseTrace(await textOf(byKey), "key").reads.map(({ offset }) => offset)).toEqual([0]);
    expect(
      parseTrace(await textOf(byDigest), "digest").streams.map(({ digest }) => digest),
    ).toEqual([other.digest]);
  });

  test("that nobody takes drops READs instead of growing, and says how many", async () => {
    const { rig, recorder, object } = await rigOf();
    const trace = recorder.record({ seconds: 1, keys: [] }, never);
    const asked = 14_000;
    for (let n = 0; n < asked; n += 1) rig.read(object, 0, 1);
    await rig.clock.advance(1000);
    const text = await textOf(trace);
    expect(text.length).toBeLessThan(550_000);
    const { reads } = parseTrace(text, "all");
    const end = JSON.parse(text.trimEnd().split("\n").at(-1) ?? "") as unknown;
    expect(end).toEqual({ end: "time", reads: reads.length, dropped: asked - reads.length });
    expect(reads.length).toBeLessThan(asked);
    expect(text).toContain(`{"dropped":${asked - reads.length}}`);
  });

  test("costs nothing once whoever asked is gone, in the middle or before it began", async () => {
    const { rig, recorder, object } = await rigOf();
    const gone = new AbortController();
    const trace = recorder.record(ALL, gone.signal);
    expect(rig.engine.readObserver).toBeDefined();
    await trace.next();
    const waiting = trace.next();
    gone.abort();
    await waiting;
    await trace.return();
    expect([recorder.openCount, rig.engine.readObserver]).toEqual([0, undefined]);
    const early = recorder.record(ALL, gone.signal);
    await early.return();
    rig.close(object);
    expect([recorder.openCount, rig.engine.readObserver]).toEqual([0, undefined]);
    expect(rig.clock.pendingCount).toBe(0);
  });

  test("is refused when as many are recorded as may be, until one ends", async () => {
    const { recorder } = await rigOf();
    const traces = Array.from({ length: 4 }, () => recorder.record(ALL, never));
    expect(thrownBy(() => recorder.record(ALL, never))).toBe("request_invalid");
    await traces[0]?.next();
    await traces[0]?.return();
    expect(recorder.openCount).toBe(3);
    await recorder.record(ALL, never).return();
  });
});
