// SPDX-License-Identifier: Apache-2.0
// A second connection to a host that was left alone, beside a reader's first request to it.

import { expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { FlowRig, patternBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

const B = BLOCK_BYTES;

function rigWithSpares(): FlowRig {
  return new FlowRig({ slabsMax: 16, limits: { opensSpares: true, requestsPerHost: 8 } });
}

function spares(rig: FlowRig): number {
  return rig.source.fetches.filter(({ extent }) => extent.length === 1).length;
}

test("is made by asking for one byte, behind the reader's own request, once", async () => {
  const rig = rigWithSpares();
  const object = await rig.open(rig.blob(patternBytes(400 * B)));
  rig.read(object, 0, 1);
  rig.read(object, 100, 101);
  await turns();
  expect([rig.asked, spares(rig)]).toEqual([["demand 0-8", "demand 100-108"], 0]);
  await rig.clock.advance(2);
  expect(spares(rig)).toBe(1);
  expect(rig.source.fetches.at(-1)?.options.urgency).toBe("prefetch");
  await rig.drain(object);
  rig.read(object, 300, 301);
  await rig.clock.advance(1_000);
  expect(spares(rig)).toBe(1);
  await rig.drain(object);
});

test("is made anew when the host has been left alone for longer than connections live", async () => {
  const rig = rigWithSpares();
  const object = await rig.open(rig.blob(patternBytes(400 * B)));
  for (const [at, waitMs, made] of [
    [0, 24_000, 1],
    [100, 26_000, 1],
    [200, 1_000, 2],
  ] as const) {
    rig.read(object, at, at + 1);
    await turns();
    await rig.clock.advance(2);
    await rig.drain(object);
    expect(spares(rig)).toBe(made);
    await rig.clock.advance(waitMs);
  }
});

test("is made in advance where readers will come, with the first one's own, and not again", async () => {
  const rig = rigWithSpares();
  const blob = rig.blob(patternBytes(400 * B));
  rig.engine.approach(rig.stream(blob));
  rig.engine.approach(rig.stream(blob));
  await turns();
  expect(spares(rig)).toBe(2);
  for (const fetch of rig.source.fetches) fetch.finish();
  const object = await rig.open(blob);
  rig.read(object, 0, 1);
  await turns();
  await rig.clock.advance(2);
  expect(spares(rig)).toBe(2);
  await rig.drain(object);
});

test("that fails is nobody's concern", async () => {
  const rig = rigWithSpares();
  const object = await rig.open(rig.blob(patternBytes(400 * B)));
  const read = rig.read(object, 0, 1);
  await turns();
  await rig.clock.advance(2);
  rig.source.fetches
    .at(-1)
    ?.fail(new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" }));
  await rig.drain(object);
  expect([read.answer, rig.log.messages("warn")]).toEqual(["complete", []]);
});

test("an engine that stops makes none", async () => {
  const rig = rigWithSpares();
  const object = await rig.open(rig.blob(patternBytes(400 * B)));
  rig.read(object, 0, 1);
  await turns();
  rig.engine.abort(new DaemonError({ code: "stopping" }));
  await rig.clock.advance(10);
  expect([spares(rig), rig.source.open]).toEqual([0, []]);
});
