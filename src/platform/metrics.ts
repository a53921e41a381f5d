// SPDX-License-Identifier: Apache-2.0
// The daemon's metrics in Prometheus' text format. Rooms make theirs once and keep them; each
// label takes at most 64 values, later ones are counted together as "other", so that no image, host
// or fault can make the output grow without end. Loaded late: nothing at start needs it.

import { Counter, Gauge, Histogram, Registry } from "prom-client";

const LABEL_VALUES_MAX = 64;
const OTHER = "other";

export interface MetricName<L extends string> {
  /** As Prometheus names things: `erofsd_registry_requests_total`. */
  readonly name: string;
  readonly help: string;
  readonly labels: readonly L[];
}

type Values<L extends string> = Readonly<Record<L, string>>;
type Change<L extends string> = (labels: Values<L>, value: number) => void;

export class Metrics {
  readonly #registry = new Registry();
  readonly #known = new Map<string, Set<string>>();

  /** Adds to a sum. */
  counter<L extends string>({ name, help, labels }: MetricName<L>): Change<L> {
    const counter = new Counter({ name, help, labelNames: labels, registers: [this.#registry] });
    return this.#children(
      labels,
      (values) => counter.labels(...values),
      (child, value) => {
        child.inc(value);
      },
    );
  }

  /** Sets what something is now. */
  gauge<L extends string>({ name, help, labels }: MetricName<L>): Change<L> {
    const gauge = new Gauge({ name, help, labelNames: labels, registers: [this.#registry] });
    return this.#children(
      labels,
      (values) => gauge.labels(...values),
      (child, value) => {
        child.set(value);
      },
    );
  }

  /** Counts one more value; `buckets` are upper ends, ascending. */
  histogram<L extends string>(metric: MetricName<L> & { buckets: readonly number[] }): Change<L> {
    const { name, help, labels, buckets } = metric;
    const histogram = new Histogram({
      name,
      help,
      labelNames: labels,
      buckets: [...buckets],
      registers: [this.#registry],
    });
    return this.#children(
      labels,
      (values) => histogram.labels(...values),
      (child, value) => {
        child.observe(value);
      },
    );
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  /** Children are kept: finding one anew for each event costs more than the event. */
  #children<L extends string, C>(
    labels: readonly L[],
    make: (values: readonly string[]) => C,
    apply: (child: C, value: number) => void,
  ): Change<L> {
    const children = new Map<string, C>();
    return (given, value) => {
      const values = labels.map((label) => this.#bounded(label, given[label]));
      const key = values.join("\0");
      let child = children.get(key);
      if (child === undefined) {
        child = make(values);
        children.set(key, child);
      }
      apply(child, value);
    };
  }

  #bounded(label: string, value: string): string {
    const known = this.#known.get(label) ?? new Set();
    this.#known.set(label, known);
    if (known.has(value)) return value;
    if (known.size >= LABEL_VALUES_MAX) return OTHER;
    known.add(value);
    return value;
  }
}
