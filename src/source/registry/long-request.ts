// SPDX-License-Identifier: Apache-2.0
// One request that serves several ranges, one behind the other: what a request costs a registry
// (and us) is then paid once. The first range's fetch makes it; the fetch of the range right behind
// joins it, and so on. While nobody has asked for what comes next, the body is not read.
//
//   request  |===== first =====|=== joined ===|=== joined ===|.. paused ..| given up
//
// Whoever joined and is let down (the request fails, is slow, or somebody before him leaves) makes a
// request of his own for what is missing.

import { DaemonError, invariant } from "../../errors.ts";
import { type Clock, cancelledBy } from "../../platform/clock.ts";
import { type Extent, extentEnd } from "../../units.ts";
import type { BodyFlow } from "./exchange.ts";

/** A request that nobody goes on with is given up after so long. */
const PAUSE_MS_MAX = 200;

/** Somebody's range within it: from where the one before ends up to `end`. */
interface Part {
  readonly end: number;
  readonly onPiece: (piece: Uint8Array) => void;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export interface PartOf {
  readonly end: number;
  readonly onPiece: (piece: Uint8Array) => void;
  readonly signal: AbortSignal;
}

export class LongRequest {
  isOfMirror = false;
  /** All that it may bring. */
  readonly wanted: Extent;
  readonly #abort = new AbortController();
  readonly #clock: Clock;
  readonly #onOver: () => void;
  readonly #parts: Part[] = [];
  #at: number;
  #promised: number;
  /** Of a piece that reaches further than anybody has asked. */
  #kept: Uint8Array | undefined;
  #flow: BodyFlow | undefined;
  #isOver = false;
  #cancelTimer: () => void = () => undefined;

  /** `onOver` is called once, when it can be joined no more. */
  constructor(of: { clock: Clock; wanted: Extent; onOver: () => void }) {
    this.#clock = of.clock;
    this.wanted = of.wanted;
    this.#at = of.wanted.offset;
    this.#promised = this.#at;
    this.#onOver = of.onOver;
  }

  /** Ends the request. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Where a range has to begin that is to join it; undefined: it has none left. */
  get next(): number | undefined {
    return this.#isOver || this.#promised === extentEnd(this.wanted) ? undefined : this.#promised;
  }

  /**
   * Gives the bytes from `next` to `end` to `onPiece`; rejects having given a prefix of them, with
   * what the request failed with, what the signal stands for, or what `onPiece` threw.
   */
  join({ end, onPiece, signal }: PartOf): Promise<void> {
    if (signal.aborted) return Promise.reject(cancelledBy(signal));
    return new Promise((resolve, reject) => {
      // What is behind him cannot come before what he leaves.
      const left = (): void => this.fail(cancelledBy(signal));
      const done = (): void => signal.removeEventListener("abort", left);
      signal.addEventListener("abort", left, { once: true });
      this.#parts.push({
        end,
        onPiece,
        resolve: () => {
          done();
          resolve();
        },
        reject: (error) => {
          done();
          reject(error);
        },
      });
      this.#promised = end;
      this.#goOn();
    });
  }

  /** Its body is about to come. */
  begin(flow: BodyFlow): void {
    this.#flow = flow;
  }

  /** Takes its bytes in order. Throws what a part's `onPiece` throws. */
  take(piece: Uint8Array): void {
    let rest = piece;
    while (rest.length > 0) {
      const part = this.#parts[0];
      if (part === undefined) {
        invariant(this.#kept === undefined, "nothing comes while it is held back");
        this.#kept = Uint8Array.from(rest);
        this.#pause();
        return;
      }
      const bytes = rest.subarray(0, part.end - this.#at);
      rest = rest.subarray(bytes.length);
      this.#at += bytes.length;
      part.onPiece(bytes);
      if (this.#at < part.end) return;
      this.#parts.shift();
      part.resolve();
    }
    if (this.#parts.length === 0 && this.#at < extentEnd(this.wanted)) this.#pause();
  }

  /** It brings nothing more: whoever still waits is told. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#cancelTimer();
    this.#onOver();
    this.#abort.abort(error);
    for (const part of this.#parts.splice(0)) part.reject(error);
  }

  #pause(): void {
    this.#flow?.pause();
    this.#cancelTimer();
    this.#cancelTimer = this.#clock.after(PAUSE_MS_MAX, () => {
      this.fail(new DaemonError({ code: "cancelled", what: "what a request would bring next" }));
    });
  }

  #goOn(): void {
    this.#cancelTimer();
    const kept = this.#kept;
    this.#kept = undefined;
    try {
      if (kept !== undefined) this.take(kept);
    } catch (error) {
      this.fail(error);
    }
    if (this.#kept === undefined && this.#parts.length > 0) this.#flow?.resume();
  }
}
