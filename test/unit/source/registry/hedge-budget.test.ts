// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { HedgeBudget } from "../../../../src/source/registry/hedge-budget.ts";

function hedgesOf(budget: HedgeBudget, requests: number): number {
  let hedges = 0;
  for (let at = 0; at < requests; at += 1) {
    budget.earn();
    if (budget.take()) hedges += 1;
  }
  return hedges;
}

it("allows the given share of requests, however many are late", () => {
  expect(hedgesOf(new HedgeBudget({ percent: 3 }), 10_000)).toBe(301);
  expect(hedgesOf(new HedgeBudget({ percent: 1 }), 100)).toBe(2);
});

it("allows none at all for 0 per cent", () => {
  expect(hedgesOf(new HedgeBudget({ percent: 0 }), 10_000)).toBe(0);
});

it("saves up for a bad spell, but not without bound", () => {
  const budget = new HedgeBudget({ percent: 3 });
  for (let at = 0; at < 100_000; at += 1) budget.earn();
  let hedges = 0;
  while (budget.take()) hedges += 1;
  expect(hedges).toBe(10);
});

it("takes another share at once", () => {
  const budget = new HedgeBudget({ percent: 3 });
  for (let at = 0; at < 100_000; at += 1) budget.earn();
  budget.set(0);
  expect(hedgesOf(budget, 1000)).toBe(0);
  budget.set(10);
  expect(hedgesOf(budget, 1000)).toBe(101);
});
