// SPDX-License-Identifier: Apache-2.0
// One range over up to two lanes, each byte once and in order. The first lane starts; the second
// when the first is late with its first byte, pauses in mid-body, or fails. Of two lanes that run
// at once, the one that delivers next is the leader and the other is aborted. Knows no network.
//
//   lane: idle -> running -> ended | failed | lost

import { DaemonError } from "../../errors.ts";
import { type Clock, cancelledBy } from "../../platform/clock.ts";

/**
 * Delivers from `offset` bytes behind the range's start to its end, and resolves after the last
 * byte. Ends at once when the signal aborts.
 */
export type Lane = (
  offset: number,
  onPiece: (piece: Uint8Array) => void,
  signal: AbortSignal,
) => Promise<void>;

/** Why the second lane starts. */
export type StartReason = "late" | "stalled" | "failed";

export interface RaceOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly first: Lane;
  readonly second: Lane;
  /** The second lane starts when no byte came for so long; undefined: it does not. */
  readonly delayMs: number | undefined;
  /** Another lane goes on where the leader has paused for so long; undefined: it does not. */
  readonly stallMs: number | undefined;
  /** The second lane starts at once when the first fails; else the failure stands. */
  readonly takesOver: boolean;
  /** Asked before the second lane starts because of slowness. */
  readonly mayStart: (reason: "late" | "stalled") => boolean;
  readonly onPiece: (piece: Uint8Array) => void;
  readonly onStart?: (reason: StartReason) => void;
  /** This lane delivers from here on. */
  readonly onLead?: (lane: 0 | 1) => void;
  /** Whose failure is told when both fail; by default the one that says more. */
  readonly authority?: 0 | 1;
}

export interface RaceResult {
  /** The lane that delivered the last byte. */
  readonly winner: 0 | 1;
}

export function race(options: RaceOptions): Promise<RaceResult> {
  return new Promise((resolve, reject) => {
    new Race(options, resolve, reject).start();
  });
}

interface Runner {
  readonly index: 0 | 1;
  readonly abort: AbortController;
  state: "idle" | "running" | "ended" | "failed" | "lost";
  error: unknown;
}

class Race {
  readonly #options: RaceOptions;
  readonly #resolve: (result: RaceResult) => void;
  readonly #reject: (error: unknown) => void;
  readonly #first: Runner = idle(0);
  readonly #second: Runner = idle(1);
  #leader: Runner | undefined;
  #deliveredBytes = 0;
  #lastPieceMs = 0;
  #isSettled = false;
  #cancelTimer: () => void = () => undefined;
  readonly #onAbort = (): void => {
    this.#fail(cancelledBy(this.#options.signal));
  };

  constructor(
    options: RaceOptions,
    resolve: (result: RaceResult) => void,
    reject: (error: unknown) => void,
  ) {
    this.#options = options;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  start(): void {
    const { signal, clock, delayMs } = this.#options;
    if (signal.aborted) {
      this.#onAbort();
      return;
    }
    signal.addEventListener("abort", this.#onAbort, { once: true });
    this.#run(this.#first);
    if (delayMs === undefined || this.#isSettled || this.#leader !== undefined) return;
    this.#cancelTimer = clock.after(delayMs, () => {
      this.#startLate("late");
    });
  }

  /** idle -> running */
  #run(runner: Runner): void {
    const lane = runner.index === 0 ? this.#options.first : this.#options.second;
    runner.state = "running";
    const onPiece = (piece: Uint8Array): void => {
      this.#deliver(runner, piece);
    };
    lane(this.#deliveredBytes, onPiece, runner.abort.signal).then(
      () => {
        this.#ended(runner);
      },
      (error: unknown) => {
        this.#failed(runner, error);
      },
    );
  }

  #startLate(reason: "late" | "stalled"): void {
    if (this.#second.state !== "idle" || !this.#options.mayStart(reason)) return;
    this.#options.onStart?.(reason);
    this.#run(this.#second);
  }

  #deliver(runner: Runner, piece: Uint8Array): void {
    // A lane that lost may still have a piece in its hands.
    if (this.#isSettled || runner.state !== "running" || piece.length === 0) return;
    // Both stand at the same byte: whoever moves on first leaves the other behind.
    this.#lose(this.#otherOf(runner));
    this.#lastPieceMs = this.#options.clock.nowMs();
    if (this.#leader !== runner) this.#lead(runner);
    this.#deliveredBytes += piece.length;
    try {
      this.#options.onPiece(piece);
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  #lead(runner: Runner): void {
    this.#leader = runner;
    this.#cancelTimer();
    this.#options.onLead?.(runner.index);
    const { stallMs } = this.#options;
    if (stallMs !== undefined && this.#second.state === "idle") this.#watchStall(stallMs, stallMs);
  }

  /** One timer that looks again, instead of one for each piece. */
  #watchStall(stallMs: number, delayMs: number): void {
    const { clock } = this.#options;
    this.#cancelTimer = clock.after(delayMs, () => {
      const quietMs = clock.nowMs() - this.#lastPieceMs;
      if (quietMs >= stallMs) this.#startLate("stalled");
      if (this.#second.state !== "idle") return;
      this.#watchStall(stallMs, quietMs >= stallMs ? stallMs : stallMs - quietMs);
    });
  }

  /** running -> ended */
  #ended(runner: Runner): void {
    if (this.#isSettled || runner.state !== "running") return;
    runner.state = "ended";
    if (this.#leader !== runner) this.#options.onLead?.(runner.index);
    this.#settle();
    this.#resolve({ winner: runner.index });
  }

  /** running -> failed */
  #failed(runner: Runner, error: unknown): void {
    if (this.#isSettled || runner.state !== "running") return;
    runner.state = "failed";
    runner.error = error;
    if (!(error instanceof DaemonError)) {
      this.#fail(error);
      return;
    }
    if (this.#leader === runner) this.#leader = undefined;
    const other = this.#otherOf(runner);
    if (other.state === "running") return;
    if (other === this.#second && other.state === "idle" && this.#options.takesOver) {
      this.#cancelTimer();
      this.#options.onStart?.("failed");
      this.#run(other);
      return;
    }
    this.#fail(other.state === "failed" ? this.#moreTelling() : error);
  }

  #moreTelling(): unknown {
    const { authority } = this.#options;
    if (authority !== undefined) return (authority === 0 ? this.#first : this.#second).error;
    return rank(this.#second.error) > rank(this.#first.error)
      ? this.#second.error
      : this.#first.error;
  }

  #lose(runner: Runner): void {
    if (runner.state !== "running") return;
    runner.state = "lost";
    runner.abort.abort(new DaemonError({ code: "cancelled", what: "the slower of two requests" }));
  }

  #otherOf(runner: Runner): Runner {
    return runner === this.#first ? this.#second : this.#first;
  }

  #fail(error: unknown): void {
    if (this.#isSettled) return;
    this.#settle();
    for (const { state, abort } of [this.#first, this.#second]) {
      if (state === "running") abort.abort(error);
    }
    this.#reject(error);
  }

  #settle(): void {
    this.#isSettled = true;
    this.#cancelTimer();
    this.#options.signal.removeEventListener("abort", this.#onAbort);
    if (this.#first.state === "ended" || this.#second.state === "ended") {
      this.#lose(this.#first);
      this.#lose(this.#second);
    }
  }
}

function idle(index: 0 | 1): Runner {
  return { index, abort: new AbortController(), state: "idle", error: undefined };
}

/** An answer says more than no answer, and a refusal more than a mishap. */
function rank(error: unknown): number {
  if (!(error instanceof DaemonError)) return 0;
  if (error.policy.retry === "never") return 4;
  const { code } = error.fault;
  return code === "registry_unreachable" ? 1 : code === "registry_timeout" ? 2 : 3;
}
