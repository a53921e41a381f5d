// SPDX-License-Identifier: Apache-2.0
// The engine under hundreds of seeded schedules (test/support/engine-simulation.ts says what may
// go wrong and what must hold). More with EROFSD_SIM_RUNS; one seed again with EROFSD_SIM_SEED.

import { describe, expect, test } from "vitest";
import { type PlantedFault, simulate } from "../support/engine-simulation.ts";

const runs = Number(process.env["EROFSD_SIM_RUNS"] ?? 300);
const onlySeed = process.env["EROFSD_SIM_SEED"];
const seeds =
  onlySeed === undefined ? Array.from({ length: runs }, (_, i) => i + 1) : [Number(onlySeed)];

test("every schedule answers each READ once, with the stream's bytes, and leaves nothing behind", async () => {
  for (const seed of seeds) {
    const violations = await simulate(seed).catch((error: unknown) => [String(error)]);
    expect(violations, `EROFSD_SIM_SEED=${seed}`).toEqual([]);
  }
}, 600_000);

describe("a planted fault is found:", () => {
  const PLANTED: PlantedFault[] = [
    "wrong byte",
    "early answer",
    "lost answer",
    "second fetch",
    "twice",
  ];
  test.each(PLANTED)("%s", async (planted) => {
    for (let seed = 1; seed <= 60; seed += 1) {
      const violations = await simulate(seed, planted).catch((error: unknown) => [String(error)]);
      if (violations.length > 0) return;
    }
    expect.unreachable(`60 schedules did not find "${planted}"`);
  });
});

test("the same seed plays the same schedule", async () => {
  const outcomes = await Promise.all([simulate(7, "wrong byte"), simulate(7, "wrong byte")]);
  expect(outcomes[0]).toEqual(outcomes[1]);
});
