// SPDX-License-Identifier: Apache-2.0
// Grafana's dashboard as far as Grafana needs it to be right, and what its queries ask Prometheus for.

import { readFile } from "node:fs/promises";
import { parser } from "@prometheus-io/lezer-promql";
import * as z from "zod";
import { findPackageRoot } from "../../src/platform/package-root.ts";

const PATH = new URL("scripts/grafana-dashboard.json", findPackageRoot());

const datasource = z.strictObject({
  type: z.literal("prometheus"),
  uid: z.literal("${datasource}"),
});
/** What Grafana's dashboard_kind.cue has as needed, and nothing that it does not know. */
const dashboardSchema = z.strictObject({
  uid: z.string().regex(/^[\w-]{1,40}$/),
  title: z.string().min(1),
  tags: z.array(z.string()),
  schemaVersion: z.int().min(36).max(42),
  version: z.int(),
  editable: z.boolean(),
  refresh: z.string().regex(/^\d+[smh]$/),
  time: z.strictObject({ from: z.string(), to: z.string() }),
  timezone: z.enum(["browser", "utc"]),
  templating: z.strictObject({
    list: z.array(
      z.looseObject({
        name: z.string().regex(/^\w+$/),
        type: z.enum(["datasource", "query"]),
        query: z.union([z.string(), z.strictObject({ query: z.string(), refId: z.string() })]),
        definition: z.string().optional(),
        hide: z.int().min(0).max(3).optional(),
        refresh: z.int().min(0).max(2).optional(),
        datasource: datasource.optional(),
      }),
    ),
  }),
  annotations: z.strictObject({ list: z.array(z.unknown()) }),
  panels: z.array(
    z.strictObject({
      id: z.int().positive(),
      type: z.enum(["timeseries", "stat"]),
      title: z.string().min(1),
      description: z.string().optional(),
      datasource,
      gridPos: z.strictObject({
        x: z.int().min(0),
        y: z.int().min(0),
        w: z.int().min(1).max(24),
        h: z.int().min(1),
      }),
      targets: z
        .array(
          z.strictObject({
            refId: z.string().regex(/^[A-Z]$/),
            datasource,
            expr: z.string().min(1),
            legendFormat: z.string(),
            instant: z.boolean().optional(),
          }),
        )
        .min(1),
      fieldConfig: z.strictObject({
        defaults: z.looseObject({ unit: z.string() }),
        overrides: z.array(
          z.strictObject({ matcher: z.unknown(), properties: z.array(z.unknown()) }),
        ),
      }),
      options: z.looseObject({}),
    }),
  ),
});

type SyntaxNode = ReturnType<typeof parser.parse>["topNode"];
export type Dashboard = z.infer<typeof dashboardSchema>;

/** Faults: of the schema, as zod tells them. */
export async function readDashboard(): Promise<Dashboard> {
  return dashboardSchema.parse(JSON.parse(await readFile(PATH, "utf8")));
}

export interface Asked {
  /** As series are named: with _bucket, _sum and _count. */
  readonly metric: string;
  /** By which it is selected and grouped. */
  readonly labels: readonly string[];
  /** What the outermost grouping leaves of them. */
  readonly shown: readonly string[];
  /** Its rate is taken, as only of what just rises. */
  readonly isRated: boolean;
}

/** What a query of PromQL asks for, Grafana's variables filled in. Fault: it is no PromQL. */
export function parseQuery(expr: string): Asked[] {
  const text = expr.replaceAll("$__rate_interval", "5m");
  const textOf = ({ from, to }: SyntaxNode): string => text.slice(from, to);
  const asked: Asked[] = [];
  parser.parse(text).iterate({
    enter({ name, type, from, node }) {
      if (type.isError) throw new Error(`no PromQL at ${from}: ${text}`);
      if (name === "VectorSelector") asked.push(selected(node, textOf));
    },
  });
  return asked;
}

function selected(selector: SyntaxNode, textOf: (node: SyntaxNode) => string): Asked {
  const matchers = selector.getChild("LabelMatchers")?.getChildren("UnquotedLabelMatcher") ?? [];
  const labels = matchers.flatMap((matcher) => matcher.getChildren("LabelName")).map(textOf);
  let shown: string[] = [];
  let isRated = false;
  for (let above = selector.parent; above !== null; above = above.parent) {
    const called = above.getChild("FunctionIdentifier");
    if (called !== null) isRated ||= ["rate", "irate", "increase"].includes(textOf(called));
    if (above.name !== "AggregateExpr") continue;
    const grouping = above.getChild("AggregateModifier")?.getChild("GroupingLabels");
    shown = (grouping?.getChildren("LabelName") ?? []).map(textOf);
    labels.push(...shown);
  }
  const metric = selector.getChildren("Identifier").map(textOf).join();
  return { metric, labels, shown, isRated };
}
