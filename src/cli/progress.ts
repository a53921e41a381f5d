// SPDX-License-Identifier: Apache-2.0
// A line on a terminal that shows how far something is, with its speed and the time left. Elsewhere
// nothing is shown.

import { type Output, share, size } from "./output.ts";

const WIDTH_FIRST = 80;
const BAR_MAX = 30;
const BAR_MIN = 5;

export interface Progress {
  /** Bytes. */
  readonly done: number;
  readonly total: number;
  readonly bytesPerSecond: number;
  readonly secondsLeft: number | undefined;
  /** What else is to be told. */
  readonly note?: string;
}

export class ProgressLine {
  readonly #output: Output;
  readonly #isShown: boolean;
  #isDrawn = false;

  constructor(output: Output, isWanted: boolean) {
    this.#output = output;
    this.#isShown = isWanted && output.isTTY === true && process.env["TERM"] !== "dumb";
  }

  show(progress: Progress): void {
    if (!this.#isShown) return;
    this.#isDrawn = true;
    const width = (process.stdout.columns || WIDTH_FIRST) - 1;
    this.#output.write(`\r\u001B[K${progressText(progress, width)}`);
  }

  clear(): void {
    if (this.#isDrawn) this.#output.write("\r\u001B[K");
    this.#isDrawn = false;
  }
}

/** At most `width` characters. */
export function progressText(progress: Progress, width: number): string {
  const { done, total, bytesPerSecond, secondsLeft, note = "" } = progress;
  const part = total === 0 ? 0 : Math.min(1, done / total);
  const speed = bytesPerSecond === 0 ? "" : `  ${size(bytesPerSecond)}/s`;
  const left = secondsLeft === undefined ? "" : `  ${timeLeft(secondsLeft)} left`;
  const text = ` ${share(done, total).padStart(4)}  ${size(done)} of ${size(total)}${speed}${left}${note}`;
  const bar = Math.min(BAR_MAX, width - text.length - 2);
  if (bar < BAR_MIN) return text.trimStart().slice(0, width);
  const full = Math.floor(bar * part);
  return `[${"#".repeat(full)}${"-".repeat(bar - full)}]${text}`;
}

/** "45s", "3m20s", "2h05m"; "-" when it is not known. */
export function timeLeft(seconds: number | undefined): string {
  if (seconds === undefined) return "-";
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole}s`;
  const pad = (value: number): string => String(value).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m${pad(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h${pad(Math.floor((whole % 3600) / 60))}m`;
}
