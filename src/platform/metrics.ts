// SPDX-License-Identifier: Apache-2.0
// What is counted, as plain numbers: counting costs a reader next to nothing, and the daemon's start
// loads no library for it. prometheus.ts makes text of it when somebody asks. Each label takes at
// most 64 values, later ones are counted together as "other", so that no image, host or fault can
// make the output grow without end.

const LABEL_VALUES_MAX = 64;
const OTHER = "other";

export interface MetricName<L extends string> {
  /** As Prometheus names things: `erofsd_registry_requests_total`. */
  readonly name: string;
  readonly help: string;
  readonly labels: readonly L[];
}

type Values<L extends string> = Readonly<Record<L, string>>;

/** Adds to a sum, sets a state, or counts one more value of a distribution. */
export type Change<L extends string> = (labels: Values<L>, value: number) => void;

export interface Cell {
  readonly values: readonly string[];
  /** The sum, or what something is now; of a distribution, the sum of its values. */
  value: number;
  /** Of a distribution, how many fell at or below each upper end but above the one before; the last: above all. */
  readonly buckets: number[];
}

export interface Family {
  readonly kind: "counter" | "gauge" | "histogram";
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  /** Upper ends, ascending; empty for what is no distribution. */
  readonly ends: readonly number[];
  readonly cells: readonly Cell[];
}

type Tree = Map<string, Tree | Cell>;

export class Metrics {
  readonly #families: (Family & { readonly cells: Cell[] })[] = [];
  readonly #known = new Map<string, Set<string>>();
  readonly #collectors: (() => void | Promise<void>)[] = [];

  /** A sum that only rises. */
  counter<L extends string>(metric: MetricName<L>): Change<L> {
    const cellOf = this.#family("counter", metric, []);
    return (labels, value) => {
      cellOf(labels).value += value;
    };
  }

  /** What something is now. */
  gauge<L extends string>(metric: MetricName<L>): Change<L> {
    return this.#settable("gauge", metric);
  }

  /** A sum that somebody else keeps, set when it is collected. */
  total<L extends string>(metric: MetricName<L>): Change<L> {
    return this.#settable("counter", metric);
  }

  /** `buckets` are upper ends, ascending. */
  histogram<L extends string>(metric: MetricName<L> & { buckets: readonly number[] }): Change<L> {
    const ends = metric.buckets;
    const cellOf = this.#family("histogram", metric, ends);
    return (labels, value) => {
      const cell = cellOf(labels);
      let at = 0;
      while (at < ends.length && value > (ends[at] ?? 0)) at += 1;
      cell.buckets[at] = (cell.buckets[at] ?? 0) + 1;
      cell.value += value;
    };
  }

  /** `collect` is run before each reading, for what is asked and not told. It must not throw. */
  beforeReading(collect: () => void | Promise<void>): void {
    this.#collectors.push(collect);
  }

  /** All of it, up to date. */
  async read(): Promise<readonly Family[]> {
    for (const collect of this.#collectors) await collect();
    return this.#families;
  }

  #settable<L extends string>(kind: "counter" | "gauge", metric: MetricName<L>): Change<L> {
    const cellOf = this.#family(kind, metric, []);
    return (labels, value) => {
      cellOf(labels).value = value;
    };
  }

  #family<L extends string>(
    kind: Family["kind"],
    { name, help, labels }: MetricName<L>,
    ends: readonly number[],
  ): (labels: Values<L>) => Cell {
    const cells: Cell[] = [];
    this.#families.push({ kind, name, help, labels, ends, cells });
    const make = (values: readonly string[]): Cell => {
      const buckets = kind === "histogram" ? Array.from({ length: ends.length + 1 }, () => 0) : [];
      const cell = { values, value: 0, buckets };
      cells.push(cell);
      return cell;
    };
    const [only] = labels;
    // What has no labels is shown from the start: a sum of nothing is 0.
    if (only === undefined) {
      const cell = make([]);
      return () => cell;
    }
    const root: Tree = new Map();
    return (given) => {
      let at: Tree | Cell = root;
      for (const label of labels) {
        if (!(at instanceof Map)) break;
        at = at.get(given[label]) ?? this.#child(at, label, given, { labels, make });
      }
      if (at instanceof Map) throw new Error("a cell lies below its last label");
      return at;
    };
  }

  /** What comes below `tree` for a value that was not there before. */
  #child<L extends string>(
    tree: Tree,
    label: L,
    given: Values<L>,
    of: { readonly labels: readonly L[]; readonly make: (values: readonly string[]) => Cell },
  ): Tree | Cell {
    const value = this.#bounded(label, given[label]);
    const known = tree.get(value);
    if (known !== undefined) return known;
    const isLast = of.labels.at(-1) === label;
    const made: Tree | Cell = isLast
      ? of.make(of.labels.map((each) => this.#bounded(each, given[each])))
      : new Map<string, Tree | Cell>();
    tree.set(value, made);
    return made;
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
