// SPDX-License-Identifier: Apache-2.0
// What the engine tells whoever looks on: how reads fared, where their time went, what was fetched
// and what of it for nothing; and that its log says which fetch was for whom.

import { expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { Activity } from "../../../src/control/activity.ts";
import { flowMetrics } from "../../../src/flow/flow-metrics.ts";
import { observers } from "../../../src/flow/flow-observer.ts";
import { Metrics } from "../../../src/platform/metrics.ts";
import { prometheusText } from "../../../src/platform/prometheus.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { FlowRig, blocks, patternBytes } from "../../support/flow-rig.ts";
import { turns } from "../../support/turns.ts";

function makeRig() {
  const metrics = new Metrics();
  const activity = new Activity(new FakeClock());
  const rig = new FlowRig({ observe: observers(flowMetrics(metrics), activity) });
  const lines = async () => (await prometheusText(metrics)).text.split("\n");
  return { rig, activity, lines };
}

const blob = (rig: FlowRig, count = 20) => rig.blob(patternBytes(count * BLOCK_BYTES));
const host = 'host="registry.example"';

test("hits, what was joined and what was fetched are told apart", async () => {
  const { rig, lines, activity } = makeRig();
  const object = await rig.open(blob(rig), (fake) => {
    fake.extents = [blocks(0, 4)];
  });
  rig.read(object, 0, 1);
  rig.read(object, 10, 12);
  rig.read(object, 11, 12);
  await rig.drain(object);
  expect(await lines()).toEqual(
    expect.arrayContaining([
      'erofsd_reads_total{found="hit"} 1',
      'erofsd_reads_total{found="fetched"} 1',
      'erofsd_reads_total{found="joined"} 1',
      `erofsd_read_bytes_total{found="fetched"} ${2 * BLOCK_BYTES}`,
      "erofsd_miss_duration_seconds_count 2",
    ]),
  );
  const { reads, objects, slow } = activity.report(rig.engine);
  expect(reads).toEqual({ hits: 1, joined: 1, fetched: 1, failed: 0, bytes: 4 * BLOCK_BYTES });
  expect(objects).toMatchObject([{ fsid: object.cookieKey, reads }]);
  expect(slow).toHaveLength(2);
});

test("time is told by phase", async () => {
  const { rig, lines } = makeRig();
  const object = await rig.open(blob(rig, 1));
  object.holdsWrites = true;
  const read = rig.read(object, 0, 1);
  await rig.clock.advance(30);
  const [fetch] = rig.source.open;
  fetch?.give(1024);
  await rig.clock.advance(200);
  fetch?.finish();
  await turns();
  await rig.clock.advance(4);
  object.writes.splice(0)[0]?.finish();
  await turns();
  expect(read.answer).toBe("complete");
  const sums = (await lines()).filter((line) => line.startsWith("erofsd_fill_phase_seconds_sum"));
  expect(sums).toEqual([
    'erofsd_fill_phase_seconds_sum{phase="queue"} 0',
    'erofsd_fill_phase_seconds_sum{phase="first_byte"} 0.03',
    'erofsd_fill_phase_seconds_sum{phase="transfer"} 0.2',
    'erofsd_fill_phase_seconds_sum{phase="reply"} 0',
    'erofsd_fill_phase_seconds_sum{phase="write"} 0.004',
  ]);
  expect(await lines()).toContain('erofsd_miss_duration_seconds_bucket{le="0.25"} 1');
  expect(await lines()).toContain('erofsd_miss_duration_seconds_bucket{le="0.1"} 0');
});

test("a failure is told by its cause and host, and what came for nothing is waste", async () => {
  const { rig, lines, activity } = makeRig();
  const object = await rig.open(blob(rig));
  const read = rig.read(object, 4, 12);
  await turns();
  const [fetch] = rig.source.open;
  // Half a block more than one: the half is of no use.
  fetch?.give(BLOCK_BYTES + BLOCK_BYTES / 2);
  await turns();
  fetch?.fail(new DaemonError({ code: "registry_timeout", host: "registry.example", detail: "" }));
  await rig.drain(object);
  expect(read.answer).toBe("failed");
  expect(await lines()).toEqual(
    expect.arrayContaining([
      `erofsd_failed_reads_total{code="registry_timeout",${host}} 1`,
      `erofsd_fill_failures_total{code="registry_timeout",${host}} 1`,
      'erofsd_fills_total{urgency="demand",result="failed"} 1',
      `erofsd_fetched_bytes_total{urgency="demand"} ${1.5 * BLOCK_BYTES}`,
      `erofsd_wasted_bytes_total{urgency="demand"} ${BLOCK_BYTES / 2}`,
    ]),
  );
  const report = activity.report(rig.engine);
  expect(report).toMatchObject({ wastedBytes: BLOCK_BYTES / 2, failedFills: 1 });
  expect(report.slow).toMatchObject([{ code: "registry_timeout", fsid: object.cookieKey }]);
});

test("what is given up because nobody wants it is no failure", async () => {
  const { rig, lines } = makeRig();
  const object = await rig.open(blob(rig));
  rig.read(object, 0, 1);
  await turns();
  rig.source.open[0]?.give(2 * BLOCK_BYTES);
  await turns();
  rig.close(object);
  await rig.drain(object);
  const told = await lines();
  expect(told).toContain('erofsd_fills_total{urgency="demand",result="cancelled"} 1');
  expect(told.some((line) => line.startsWith("erofsd_fill_failures_total{"))).toBe(false);
});

test("the log at level trace has one id from the READ to its reply", async () => {
  const { rig } = makeRig();
  const object = await rig.open(blob(rig));
  const first = rig.read(object, 4, 6);
  const second = rig.read(object, 5, 6);
  await turns();
  expect(rig.source.fetches[0]?.options.traced).toMatchObject({ miss: first.id });
  await rig.drain(object);
  const told = rig.log.lines.filter(({ level }) => level === "trace");
  const of = (id: number) =>
    told
      .filter(({ fields }) => "miss" in fields && fields.miss === id)
      .map(({ message }) => message);
  expect(of(first.id)).toEqual(["fetch", "reply", "fetch ended"]);
  expect(of(second.id)).toEqual(["joined", "reply"]);
});

test("of slow reads the slowest of the past minute are kept, and no more than 32", () => {
  const clock = new FakeClock();
  const activity = new Activity(clock);
  const answer = (id: number, elapsedMs: number): void => {
    const of = { volumeKey: "v", cookieKey: "k", streamKey: "s", host: "h", code: undefined };
    activity.answered({ ...of, id, elapsedMs, found: "fetched", extent: blocks(0, 1) });
  };
  const { engine } = new FlowRig();
  const slow = () => activity.report(engine).slow.map(({ waitedMs }) => waitedMs);
  for (let n = 0; n < 100; n += 1) answer(n, (n * 37) % 100);
  expect(slow()).toEqual(Array.from({ length: 32 }, (_, n) => 99 - n));
  clock.nowMs = () => 70_000;
  expect(slow()).toEqual([]);
  answer(200, 5);
  expect(slow()).toEqual([5]);
});
