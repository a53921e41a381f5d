// SPDX-License-Identifier: Apache-2.0
// How a benchmark says what it measured: a table for people, one line of JSON for programs.

export type Result = readonly [name: string, value: number, unit: string];

export function printResults(where: string, results: readonly Result[]): void {
  const width = Math.max(...results.map(([name]) => name.length));
  const rounded = results.map(
    ([name, value, unit]) => [name, Number(value.toFixed(3)), unit] as const,
  );
  for (const [name, value, unit] of rounded) {
    console.log(`${name.padEnd(width)}  ${String(value).padStart(9)} ${unit}`.trimEnd());
  }
  const values = Object.fromEntries(rounded.map(([name, value]) => [name, value]));
  console.log(JSON.stringify({ where, node: process.version, ...values }));
}
