// SPDX-License-Identifier: Apache-2.0
// What `erofsd top` makes of two answers, and how it fits on a terminal.

import { expect, test } from "vitest";
import { topOf, topText, summaryLine } from "../../../src/cli/top-view.ts";
import { styleOf } from "../../../src/cli/output.ts";
import type { ActivityAnswer } from "../../../src/control/activity-schema.ts";

const NOTHING = { hits: 0, joined: 0, fetched: 0, failed: 0, bytes: 0 };

function answer(nowMs: number, times: number): ActivityAnswer {
  const reads = {
    hits: 5,
    joined: 3 * times,
    fetched: 2 * times,
    failed: times,
    bytes: 4096 * times,
  };
  return {
    nowMs,
    reads,
    fetchedBytes: { demand: 1_048_576 * times, ahead: 2_097_152 * times, prefetch: 0 },
    wastedBytes: 0,
    failedFills: 0,
    fillsInFlight: 2,
    waitingReads: 1,
    waiting: [{ fsid: "image", offset: 0, length: 4096, waitedMs: 1234 }],
    slow: Array.from({ length: 32 }, (_, n) => ({
      id: n,
      fsid: "image",
      offset: 4096 * n,
      length: 8192,
      waitedMs: 500 - n,
      agoMs: 10,
    })),
    objects: [{ fsid: "image", volume: "v", cachedBytes: 50, sizeBytes: 100, reads }],
  };
}

const mounts = [{ mountPoint: "/mnt/app", reference: "registry.example/app:v1", fsids: ["image"] }];
const fileOf = (_: string, offset: number) =>
  offset === 4096 ? "/usr/bin/\u001B[31mpython" : undefined;
const top = topOf({ before: answer(1000, 1), now: answer(3000, 3), mounts, fileOf });
const plain = styleOf({ write: () => undefined });

test("rates are what happened between two answers, by the daemon's clock", () => {
  expect(top).toMatchObject({
    seconds: 2,
    missesPerSecond: 6,
    failedPerSecond: 1,
    hitRatio: 0.5,
    fetchedBytesPerSecond: { demand: 1_048_576, ahead: 2_097_152, prefetch: 0 },
    mounts: [{ mountPoint: "/mnt/app", missesPerSecond: 6, readBytesPerSecond: 4096 }],
  });
  expect(top.slow[1]).toMatchObject({ mountPoint: "/mnt/app", waitedMs: 499 });
});

test("a ratio of nothing is not known, and a daemon that began anew has no negative rates", () => {
  const none = { ...answer(0, 0), reads: NOTHING };
  expect(topOf({ before: none, now: none, mounts: [], fileOf }).hitRatio).toBeNull();
  const again = topOf({ before: answer(9000, 9), now: answer(10_000, 1), mounts, fileOf });
  expect([again.missesPerSecond, again.fetchedBytesPerSecond.demand]).toEqual([0, 0]);
});

test("names of files come with their mount, and cannot move the cursor", () => {
  const text = topText(top, plain);
  expect(text).toContain("/mnt/app/usr/bin/?[31mpython");
  expect(text).toContain("1234 ms  4.0 KiB  waits");
  expect(text).toContain("registry.example/app:v1");
  expect(text.split("\n").length).toBeGreaterThan(36);
});

test.each([
  [80, 24],
  [20, 5],
  [1, 1],
  [200, 60],
  [40, 3],
])("fits into %i columns and %i rows", (columns, rows) => {
  const coloured = styleOf({ write: () => undefined, isTTY: true }, { TERM: "xterm" });
  const lines = topText(top, coloured, { columns, rows }).split("\n");
  expect(lines.length).toBeLessThanOrEqual(rows);
  for (const line of lines) {
    const seen = line.replaceAll("\u001B[1m", "").replaceAll("\u001B[0m", "");
    expect(seen.length).toBeLessThanOrEqual(columns);
    // What is begun is ended: no colour runs on.
    expect(line.split("\u001B[1m").length).toBe(line.split("\u001B[0m").length);
  }
});

test("elsewhere than on a terminal it is one line", () => {
  const line = summaryLine(top);
  expect(line).toBe(
    "misses 6.0/s  hits 50%  failed 1.0/s  waiting 1  fetched 3.0 MiB/s  slowest 500 ms /mnt/app image at 0\n",
  );
});
