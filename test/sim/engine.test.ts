// SPDX-License-Identifier: Apache-2.0
// The engine under thousands of seeded schedules (README.md says what may go wrong in them and what
// must hold), and faults planted in its source, each of which they must find.

import { describe, expect, test } from "vitest";
import { playSeeds, withSimulation } from "../support/simulation/crew.ts";
import { PLANTED } from "../support/simulation/planted.ts";
import { shrink, simulate } from "../support/simulation/simulate.ts";

const SCHEDULES = Number(process.env["EROFSD_SIM_RUNS"] ?? 2_000);
/** A fault that so many do not find is not found. */
const SCHEDULES_FOR_FAULTS = 2_000;

test(`${SCHEDULES} schedules break no rule, and leave nothing behind`, async () => {
  const seeds = { first: 1, count: SCHEDULES, failuresMax: 1, shrinks: true };
  const { passed, failures } = await withSimulation(undefined, (path) => playSeeds(path, seeds));
  expect(failures.map(({ text }) => text).join("\n\n")).toBe("");
  expect(passed).toBe(SCHEDULES);
}, 600_000);

describe("a planted fault is found:", () => {
  test.each(PLANTED)(
    "$name (rule $rule)",
    async (fault) => {
      const seeds = { first: 1, count: SCHEDULES_FOR_FAULTS, failuresMax: 1, shrinks: false };
      const { failures } = await withSimulation(fault, (path) => playSeeds(path, seeds));
      const said = failures.flatMap(({ violations }) => violations);
      expect(
        said.some((one) => fault.found.test(one)),
        said.join("\n"),
      ).toBe(true);
    },
    300_000,
  );
});

test("the same seed plays the same schedule, step by step", async () => {
  for (const seed of [3, 7, 42, 1_042]) {
    const [once, again] = [await simulate(seed), await simulate(seed)];
    expect(once.trace.length).toBeGreaterThan(50);
    expect(again).toEqual(once);
  }
});

test("a schedule without steps is quiet, and a sound one has nothing to shrink", async () => {
  expect(await simulate(7, [])).toEqual({ violations: [], trace: [], steps: [] });
  expect(await shrink(7)).toBeUndefined();
});
