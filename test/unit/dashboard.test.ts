// SPDX-License-Identifier: Apache-2.0
// Grafana's dashboard is one that Grafana takes; what it asks for is compared with a running daemon's
// metrics in test/host/metrics.test.ts.

import { expect, test } from "vitest";
import { parseQuery, readDashboard } from "../support/dashboard.ts";

const dashboard = await readDashboard();
const variables = new Set(dashboard.templating.list.map(({ name }) => name));

test("panels have an id each, and a place of their own within the page", () => {
  const ids = dashboard.panels.map(({ id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
  const taken = new Map<string, number>();
  for (const { id, gridPos } of dashboard.panels) {
    expect(gridPos.x + gridPos.w).toBeLessThanOrEqual(24);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
        expect([id, taken.get(`${x} ${y}`)]).toEqual([id, undefined]);
        taken.set(`${x} ${y}`, id);
      }
    }
  }
});

test("the data source is a variable, asked for when the dashboard is opened", () => {
  const [first] = dashboard.templating.list;
  expect(first).toMatchObject({ name: "datasource", type: "datasource", query: "prometheus" });
});

test("every query is PromQL, knows its variables, and its legend what it groups by", () => {
  for (const { title, targets } of dashboard.panels) {
    expect(new Set(targets.map(({ refId }) => refId)).size).toBe(targets.length);
    for (const { expr, legendFormat } of targets) {
      const shown = new Set(parseQuery(expr).flatMap((each) => each.shown));
      const told = [...legendFormat.matchAll(/\{\{\s*(\w+)\s*\}\}/g)].map(
        ([, label]) => label ?? "",
      );
      expect([title, told.filter((label) => !shown.has(label))]).toEqual([title, []]);
      const asked = [...expr.matchAll(/\$(?:\{(\w+)\}|(\w+))/g)].map(([, a, b]) => a ?? b ?? "");
      expect(asked.filter((name) => name !== "__rate_interval" && !variables.has(name))).toEqual(
        [],
      );
    }
  }
});

test.each(["sum by (rate(x[5m]", "x{a=}", "rate(x[5m)", ""])("%j is no PromQL", (expr) => {
  expect(() => {
    if (parseQuery(expr).length === 0) throw new Error("nothing is asked for");
  }).toThrow();
});

test("what a query asks for is found in it", () => {
  expect(parseQuery('sum by (a) (rate(x_total{b="1"}[$__rate_interval])) / max(y)')).toEqual([
    { metric: "x_total", labels: ["b", "a"], shown: ["a"], isRated: true },
    { metric: "y", labels: [], shown: [], isRated: false },
  ]);
});
