// SPDX-License-Identifier: Apache-2.0
// The engine under hundreds of seeded schedules (test/support/engine-simulation.ts says what may
// go wrong and what must hold). More with EROFSD_SIM_RUNS; one seed again with EROFSD_SIM_SEED.

import { describe, expect, test } from "vitest";
import { simulate } from "../support/engine-simulation.ts";
import type { PlantedFault } from "../support/simulated-units.ts";

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
  const PLANTED: [PlantedFault, RegExp][] = [
    ["wrong byte", /wrong bytes/],
    ["early answer", /"complete" before|was answered twice/],
    ["lost answer", /never answered/],
    ["second fetch", /is fetched while/],
    ["twice", /was answered twice/],
    ["sibling", /"complete" before/],
    ["unverified", /written before it was verified/],
    ["released early", /a decode ran on a slab that had been given back/],
    ["spread", /failed with digest_mismatch/],
  ];
  test.each(PLANTED)("%s", async (planted, found) => {
    for (let seed = 1; seed <= 60; seed += 1) {
      const violations = await simulate(seed, planted).catch((error: unknown) => [String(error)]);
      if (violations.some((violation) => found.test(violation))) return;
    }
    expect.unreachable(`60 schedules did not find "${planted}"`);
  });
});

test("the same seed plays the same schedule", async () => {
  const outcomes = await Promise.all([simulate(7, "wrong byte"), simulate(7, "wrong byte")]);
  expect(outcomes[0]).toEqual(outcomes[1]);
});
