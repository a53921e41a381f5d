// SPDX-License-Identifier: Apache-2.0
// What benchmarks say: a line each as it is measured, for people, and all of them as JSON in the
// end, with the machine they are from. Lines of one run may be compared; of two machines, ratios.

import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { availableParallelism, cpus, loadavg, release } from "node:os";
import { dirname } from "node:path";
import { promisify } from "node:util";

const exec = promisify(execFile);
const FORMAT = 1;

export interface Line {
  /** Of the parts of scripts/bench. */
  readonly part: string;
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** What it is measured against: its ratio is value / reference. */
  readonly reference?: { readonly name: string; readonly value: number };
  /** Of the ratio where there is a reference, else of the value. */
  readonly goal?: { readonly kind: "at least" | "at most"; readonly value: number };
  /** Further numbers, for the JSON and for a closer look. */
  readonly details?: Readonly<Record<string, number>>;
}

export class Report {
  readonly #lines: Line[] = [];
  readonly #startedAt = new Date();
  readonly #load = loadavg()[0] ?? 0;

  get missed(): number {
    return this.#lines.filter((line) => isMet(line) === false).length;
  }

  constructor() {
    if (this.#load > availableParallelism() / 2) {
      console.log(
        `this machine is busy (load ${round(this.#load)}): times are longer than they are`,
      );
    }
  }

  heading(text: string): void {
    console.log(`\n== ${text}`);
  }

  add(line: Line): void {
    this.#lines.push(line);
    console.log(describe(line));
  }

  /** For the JSON alone: it has been shown already. */
  keep(line: Line): void {
    this.#lines.push(line);
  }

  async write(path: string): Promise<void> {
    const { stdout } = await exec("git", ["rev-parse", "HEAD"]).catch(() => ({ stdout: "" }));
    const machine = {
      processors: availableParallelism(),
      model: cpus()[0]?.model ?? "",
      kernel: release(),
      node: process.version,
      load: this.#load,
    };
    const lines = this.#lines.map((line) => ({ ...line, ratio: ratioOf(line), met: isMet(line) }));
    const about = { format: FORMAT, startedAt: this.#startedAt, commit: stdout.trim(), machine };
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, `${JSON.stringify({ ...about, lines }, undefined, 1)}\n`);
  }
}

function ratioOf({ value, reference }: Line): number | undefined {
  return reference === undefined ? undefined : value / reference.value;
}

function isMet(line: Line): boolean | undefined {
  const { goal, value } = line;
  if (goal === undefined) return undefined;
  const measured = ratioOf(line) ?? value;
  return goal.kind === "at least" ? measured >= goal.value : measured <= goal.value;
}

function describe(line: Line): string {
  const { name, value, unit, reference, goal, details = {} } = line;
  const ratio = ratioOf(line);
  const against =
    reference === undefined ? "" : `${round(reference.value)} ${unit} ${reference.name}`;
  const wanted =
    goal === undefined
      ? ""
      : `${isMet(line) === true ? "ok    " : "MISSED"} ${goal.kind} ${round(goal.value)}`;
  const columns = [
    name.padEnd(46),
    `${round(value)} ${unit}`.padStart(16),
    ratio === undefined ? "".padStart(7) : `x ${ratio.toFixed(2)}`.padStart(7),
    against.padEnd(26),
    wanted,
  ];
  const more = Object.entries(details).map(([key, number]) => `${key} ${round(number)}`);
  const first = columns.join("  ").trimEnd();
  return more.length === 0 ? first : `${first}\n${" ".repeat(8)}${more.join(", ")}`;
}

function round(value: number): string {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toFixed(digits);
}
