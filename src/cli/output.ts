// SPDX-License-Identifier: Apache-2.0
// How commands print: tables with aligned columns, JSON on one line, colours for people alone.

import { KIB } from "../units.ts";

/** Where a command prints to: stdout, or what a test reads. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
}

export interface Style {
  /** For people: long digests may be shortened. */
  readonly isTerminal: boolean;
  readonly heading: (text: string) => string;
  readonly bad: (text: string) => string;
}

/** Colours on a terminal only, and none with NO_COLOR (no-color.org) or a terminal without any. */
export function styleOf(
  output: Output,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Style {
  const isTerminal = output.isTTY === true;
  const isPlain = (environment["NO_COLOR"] ?? "") !== "" || environment["TERM"] === "dumb";
  const isColourful = isTerminal && !isPlain;
  const paint = (code: number) => (text: string) =>
    isColourful ? `\u001B[${code}m${text}\u001B[0m` : text;
  return { isTerminal, heading: paint(1), bad: paint(31) };
}

/** Columns as wide as their widest cell, two blanks between them; the last is not padded. */
export function table(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  style: Style,
): string {
  const clean = rows.map((row) => row.map(printable));
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...clean.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => (column < cells.length - 1 ? cell.padEnd(widths[column] ?? 0) : cell))
      .join("  ")
      .trimEnd();
  return [style.heading(line(headings)), ...clean.map(line)].map((text) => `${text}\n`).join("");
}

/** `value` as JSON, on a line of its own. */
export function jsonLine(value: unknown): string {
  return `${JSON.stringify(value)}\n`;
}

/** Names come from elsewhere: none of them may move a terminal's cursor. */
export function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, "?");
}

const SIZE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A size for people, three digits or so: "0 B", "4.0 KiB", "12.3 MiB", "120 GiB". */
export function size(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= KIB && unit < SIZE_UNITS.length - 1) {
    value /= KIB;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${SIZE_UNITS[unit] ?? ""}`;
}

/** How much of a whole, rounded down: only what is complete is "100%". */
export function share(part: number, whole: number): string {
  return whole === 0 ? "-" : `${Math.floor((part / whole) * 100)}%`;
}

/** A digest's first twelve digits on a terminal, all of them elsewhere. */
export function shortDigest(digest: string, style: Style): string {
  const [, start] = /^sha256:([0-9a-f]{12})[0-9a-f]+$/.exec(digest) ?? [];
  return style.isTerminal && start !== undefined ? start : digest;
}
