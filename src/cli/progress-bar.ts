// SPDX-License-Identifier: Apache-2.0
// A progress bar for a person at a terminal: how much, how fast, how long it will take still.

import { type Output, share, size } from "./output.ts";

const BAR_WIDTH = 24;
/** The rate is that of the last seconds. */
const RATE_OVER_MS = 5000;
const CLEAR_LINE = "\r\u001B[K";

export class ProgressBar {
  readonly #output: Output;
  readonly #label: string;
  readonly #nowMs: () => number;
  #seen: { atMs: number; doneBytes: number }[] = [];
  #isShown = false;

  constructor(output: Output, label: string, nowMs: () => number = () => performance.now()) {
    this.#output = output;
    this.#label = label;
    this.#nowMs = nowMs;
  }

  /** Shows it on the terminal's last line; nothing where there is no terminal. */
  update(doneBytes: number, totalBytes: number): void {
    if (this.#output.isTTY !== true) return;
    const atMs = this.#nowMs();
    this.#seen = this.#seen.filter((one) => one.atMs > atMs - RATE_OVER_MS);
    this.#seen.push({ atMs, doneBytes });
    this.#output.write(`${CLEAR_LINE}${this.#text(doneBytes, totalBytes)}`);
    this.#isShown = true;
  }

  /** Takes it away. */
  clear(): void {
    if (this.#isShown) this.#output.write(CLEAR_LINE);
    this.#isShown = false;
  }

  #text(doneBytes: number, totalBytes: number): string {
    const filled = totalBytes === 0 ? 0 : Math.floor((BAR_WIDTH * doneBytes) / totalBytes);
    const bar = "#".repeat(filled).padEnd(BAR_WIDTH, "-");
    const amount = `${size(doneBytes)} of ${size(totalBytes)}`;
    return [
      `${this.#label} [${bar}] ${share(doneBytes, totalBytes)}`,
      amount,
      ...this.#speed(doneBytes, totalBytes),
    ].join("  ");
  }

  #speed(doneBytes: number, totalBytes: number): string[] {
    const [first] = this.#seen;
    const last = this.#seen.at(-1);
    if (first === undefined || last === undefined || last.atMs <= first.atMs) return [];
    const perSecond = ((last.doneBytes - first.doneBytes) * 1000) / (last.atMs - first.atMs);
    const rate = `${size(Math.round(perSecond))}/s`;
    if (perSecond <= 0) return [rate];
    return [rate, `${duration((totalBytes - doneBytes) / perSecond)} left`];
  }
}

function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
