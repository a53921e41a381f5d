// SPDX-License-Identifier: Apache-2.0
// Metrics in Prometheus' text format. Its objects are made when somebody asks, from the numbers as
// they are then; loaded late, for nothing at start needs it.

import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Family, Metrics } from "./metrics.ts";

export interface MetricsText {
  readonly contentType: string;
  readonly text: string;
}

export async function prometheusText(metrics: Metrics): Promise<MetricsText> {
  const registry = new Registry();
  for (const family of await metrics.read()) add(registry, family);
  return { contentType: registry.contentType, text: await registry.metrics() };
}

function add(registry: Registry, family: Family): void {
  const { kind, name, help, labels, cells } = family;
  const settings = { name, help, labelNames: [...labels], registers: [registry] };
  if (kind === "histogram") {
    registry.registerMetric(new Distribution({ ...settings, registers: [] }, family));
    return;
  }
  if (kind === "counter") {
    const counter = new Counter(settings);
    for (const { values, value } of cells) counter.labels(...values).inc(value);
    return;
  }
  const gauge = new Gauge(settings);
  for (const { values, value } of cells) gauge.labels(...values).set(value);
}

/** A histogram that has counted already: prom-client's own counts one value after the other. */
class Distribution extends Histogram {
  readonly #family: Family;

  constructor(settings: ConstructorParameters<typeof Histogram>[0], family: Family) {
    super({ ...settings, buckets: [...family.ends] });
    this.#family = family;
  }

  /** What a registry asks a metric for. */
  getForPromString() {
    const { name, help, cells } = this.#family;
    const values = cells.flatMap((cell) => this.#valuesOf(cell));
    return Promise.resolve({ name, help, type: "histogram", values });
  }

  #valuesOf({ values, value: sum, buckets }: Family["cells"][number]) {
    const { name, labels, ends } = this.#family;
    const own = Object.fromEntries(labels.map((label, index) => [label, values[index] ?? ""]));
    let count = 0;
    const cumulative = [...ends, "+Inf"].map((le, index) => {
      count += buckets[index] ?? 0;
      return { labels: { le, ...own }, value: count, metricName: `${name}_bucket` };
    });
    return [
      ...cumulative,
      { labels: own, value: sum, metricName: `${name}_sum` },
      { labels: own, value: count, metricName: `${name}_count` },
    ];
  }
}
