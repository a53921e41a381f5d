// SPDX-License-Identifier: Apache-2.0
// A race whose lanes do what the test says, step by step, on a clock that stands still.

import { getEventListeners } from "node:events";
import { expect } from "vitest";
import { DaemonError, type Fault } from "../../src/errors.ts";
import { type Lane, type RaceOptions, race } from "../../src/source/registry/race.ts";
import { FakeClock } from "./fake-clock.ts";

export const CONTENT = Uint8Array.from({ length: 6 }, (_, at) => at + 1);
export const DELAY_MS = 10;
export const STALL_MS = 40;

/** A lane whose next step is the test's to take. A lane that lost may be run again. */
export class ScriptedLane {
  /** Where each run began. */
  readonly offsets: number[] = [];
  #signal: AbortSignal | undefined;
  #isDone = false;
  #position = 0;
  #onPiece: (piece: Uint8Array) => void = () => undefined;
  #resolve: () => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;

  readonly lane: Lane = (offset, onPiece, signal) => {
    expect(this.isRunning, "a lane does not run twice at once").toBe(false);
    this.offsets.push(offset);
    this.#signal = signal;
    this.#isDone = false;
    this.#position = offset;
    this.#onPiece = onPiece;
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      signal.addEventListener("abort", () => reject(new DaemonError({ code: "stopping" })));
    });
  };

  get isRunning(): boolean {
    return this.#signal?.aborted === false && !this.#isDone;
  }

  piece(length = 2): void {
    const end = Math.min(this.#position + length, CONTENT.length);
    const piece = CONTENT.subarray(this.#position, end);
    this.#position = end;
    this.#onPiece(piece);
  }

  end(): void {
    while (this.#position < CONTENT.length) this.piece();
    this.#isDone = true;
    this.#resolve();
  }

  fail(fault: Fault): void {
    this.#isDone = true;
    this.#reject(new DaemonError(fault));
  }
}

export interface RaceRig {
  readonly clock: FakeClock;
  readonly a: ScriptedLane;
  readonly b: ScriptedLane;
  readonly delivered: number[];
  readonly events: string[];
  readonly cancel: AbortController;
  readonly result: Promise<{ winner: 0 | 1 }>;
}

export function startRace(options: Partial<RaceOptions> = {}): RaceRig {
  const clock = new FakeClock();
  const [a, b] = [new ScriptedLane(), new ScriptedLane()];
  const delivered: number[] = [];
  const events: string[] = [];
  const cancel = new AbortController();
  const result = race({
    clock,
    signal: cancel.signal,
    first: a.lane,
    second: b.lane,
    delayMs: DELAY_MS,
    stallMs: STALL_MS,
    takesOver: true,
    mayStart: () => true,
    onPiece: (piece) => delivered.push(...piece),
    onStart: (reason) => events.push(reason),
    onLead: (lane) => events.push(`lead ${lane}`),
    ...options,
  });
  result.catch(() => undefined);
  return { clock, a, b, delivered, events, cancel, result };
}

export function expectTidy({ clock, cancel, a, b }: RaceRig): void {
  expect(clock.pendingCount).toBe(0);
  expect(getEventListeners(cancel.signal, "abort")).toHaveLength(0);
  expect([a.isRunning, b.isRunning]).toEqual([false, false]);
}
