// SPDX-License-Identifier: Apache-2.0
// One range over up to two lanes, each byte once and in order. The first lane starts; the second
// when the first is late with its first byte. Of two that run at once, the one that delivers next
// leads and the other is aborted; it is run again, from the next byte on, when the leader pauses
// or fails. Knows no network.
//
//   lane: idle -> running -> ended | failed | lost;  lost -> running

import { DaemonError, type Fault } from "../../errors.ts";
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

/** Why the other lane starts. */
export type StartReason = "late" | "stalled" | "failed";

export interface RaceOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly first: Lane;
  readonly second: Lane;
  /** The second lane starts when no byte came for so long; undefined: it does not. */
  readonly delayMs: number | undefined;
  /** When it aborts, the second lane starts if no byte has come `hurriedMs` after the beginning. */
  readonly hurry?: AbortSignal | undefined;
  readonly hurriedMs?: number;
  /** The other lane goes on where the leader has paused for so long; undefined: it does not. */
  readonly stallMs: number | undefined;
  /** The other lane starts at once when one fails; else the failure stands. */
  readonly takesOver: boolean;
  /** Asked before a lane starts because of the other's slowness. */
  readonly mayStart: (reason: "late" | "stalled") => boolean;
  readonly onPiece: (piece: Uint8Array) => void;
  readonly onStart?: (reason: StartReason, lane: 0 | 1) => void;
  /** This lane has failed while the other runs, which may yet deliver everything. */
  readonly onCovered?: (error: DaemonError, lane: 0 | 1) => void;
  /** This lane delivers from here on. */
  readonly onLead?: (lane: 0 | 1) => void;
  /**
   * Whose failure is told when both fail, and ends the race when trying again cannot help; by
   * default it is the one that says more, and both are heard.
   */
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

/** What became of one lane; a lane that lost may be run again. */
interface Runner {
  readonly index: 0 | 1;
  run: Run | undefined;
  /** Why it will not be run again. */
  error: DaemonError | undefined;
}

interface Run {
  readonly runner: Runner;
  readonly abort: AbortController;
  state: "running" | "ended" | "failed" | "lost";
}

class Race {
  readonly #options: RaceOptions;
  readonly #resolve: (result: RaceResult) => void;
  readonly #reject: (error: unknown) => void;
  readonly #first: Runner = { index: 0, run: undefined, error: undefined };
  readonly #second: Runner = { index: 1, run: undefined, error: undefined };
  #leader: Run | undefined;
  #deliveredBytes = 0;
  #lastPieceMs = 0;
  #isSettled = false;
  #cancelTimer: () => void = () => undefined;
  readonly #onAbort = (): void => {
    this.#fail(cancelledBy(this.#options.signal));
  };
  #beganMs = 0;
  readonly #onHurry = (): void => {
    if (this.#leader !== undefined || this.#isSettled) return;
    const { clock, hurriedMs = 0 } = this.#options;
    const leftMs = this.#beganMs + hurriedMs - clock.nowMs();
    this.#cancelTimer();
    if (leftMs <= 0) this.#start(this.#second, "late");
    else this.#cancelTimer = clock.after(leftMs, () => this.#start(this.#second, "late"));
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
    const { signal, clock, delayMs, hurry } = this.#options;
    if (signal.aborted) {
      this.#onAbort();
      return;
    }
    signal.addEventListener("abort", this.#onAbort, { once: true });
    hurry?.addEventListener("abort", this.#onHurry, { once: true });
    this.#beganMs = clock.nowMs();
    this.#run(this.#first);
    if (this.#isSettled || this.#leader !== undefined) return;
    if (hurry?.aborted === true) this.#onHurry();
    else if (delayMs !== undefined) {
      this.#cancelTimer = clock.after(delayMs, () => {
        this.#start(this.#second, "late");
      });
    }
  }

  // idle or lost -> running
  #run(runner: Runner): void {
    const lane = runner.index === 0 ? this.#options.first : this.#options.second;
    const run: Run = { runner, abort: new AbortController(), state: "running" };
    runner.run = run;
    const onPiece = (piece: Uint8Array): void => {
      this.#deliver(run, piece);
    };
    lane(this.#deliveredBytes, onPiece, run.abort.signal).then(
      () => {
        this.#ended(run);
      },
      (error: unknown) => {
        this.#failed(run, error);
      },
    );
  }

  /** For slowness; not when it runs already, has failed, or is not allowed to. */
  #start(runner: Runner, reason: "late" | "stalled"): void {
    if (isRunning(runner) || runner.error !== undefined || this.#isSettled) return;
    if (!this.#options.mayStart(reason)) return;
    this.#options.onStart?.(reason, runner.index);
    this.#run(runner);
  }

  #deliver(run: Run, piece: Uint8Array): void {
    // A lane that lost may still have a piece in its hands.
    if (this.#isSettled || run.state !== "running" || piece.length === 0) return;
    // Both stand at the same byte: whoever moves on first leaves the other behind.
    lose(this.#otherOf(run.runner).run);
    this.#lastPieceMs = this.#options.clock.nowMs();
    if (this.#leader !== run) this.#lead(run);
    this.#deliveredBytes += piece.length;
    try {
      this.#options.onPiece(piece);
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  #lead(run: Run): void {
    this.#leader = run;
    this.#cancelTimer();
    this.#options.onLead?.(run.runner.index);
    const { stallMs } = this.#options;
    if (stallMs !== undefined) this.#watchStall(run, stallMs, stallMs);
  }

  /** One timer that looks again, instead of one for each piece. */
  #watchStall(run: Run, stallMs: number, delayMs: number): void {
    const { clock } = this.#options;
    this.#cancelTimer = clock.after(delayMs, () => {
      const quietMs = clock.nowMs() - this.#lastPieceMs;
      if (quietMs >= stallMs) this.#start(this.#otherOf(run.runner), "stalled");
      this.#watchStall(run, stallMs, quietMs >= stallMs ? stallMs : stallMs - quietMs);
    });
  }

  // running -> ended
  #ended(run: Run): void {
    if (this.#isSettled || run.state !== "running") return;
    run.state = "ended";
    if (this.#leader !== run) this.#options.onLead?.(run.runner.index);
    this.#settle(new DaemonError(LOST));
    this.#resolve({ winner: run.runner.index });
  }

  // running -> failed
  #failed(run: Run, error: unknown): void {
    if (this.#isSettled || run.state !== "running") return;
    run.state = "failed";
    if (!(error instanceof DaemonError)) {
      this.#fail(error);
      return;
    }
    const { runner } = run;
    runner.error = error;
    if (this.#leader === run) {
      this.#leader = undefined;
      this.#cancelTimer();
    }
    const other = this.#otherOf(runner);
    const isFinal = this.#options.authority === runner.index && error.policy.retry === "never";
    if (isFinal) this.#fail(error);
    else if (isRunning(other)) this.#options.onCovered?.(error, runner.index);
    else if (other.error !== undefined) this.#fail(this.#moreTelling());
    else if (!this.#options.takesOver) this.#fail(error);
    else {
      this.#cancelTimer();
      this.#options.onStart?.("failed", other.index);
      this.#run(other);
    }
  }

  #moreTelling(): unknown {
    const { authority } = this.#options;
    const [first, second] = [this.#first.error, this.#second.error];
    if (authority !== undefined) return authority === 0 ? first : second;
    return rank(second) > rank(first) ? second : first;
  }

  #otherOf(runner: Runner): Runner {
    return runner === this.#first ? this.#second : this.#first;
  }

  #fail(error: unknown): void {
    if (this.#isSettled) return;
    this.#settle(error);
    this.#reject(error);
  }

  /** Whatever still runs is ended with `reason`. */
  #settle(reason: unknown): void {
    const { signal, hurry } = this.#options;
    this.#isSettled = true;
    this.#cancelTimer();
    signal.removeEventListener("abort", this.#onAbort);
    hurry?.removeEventListener("abort", this.#onHurry);
    for (const { run } of [this.#first, this.#second]) {
      if (run?.state === "running") run.abort.abort(reason);
    }
  }
}

const LOST: Fault = { code: "cancelled", what: "the slower of two requests" };

// running -> lost
function lose(run: Run | undefined): void {
  if (run?.state !== "running") return;
  run.state = "lost";
  run.abort.abort(new DaemonError(LOST));
}

function isRunning({ run }: Runner): boolean {
  return run?.state === "running";
}

/** An answer says more than no answer, and a refusal more than a mishap. */
function rank(error: unknown): number {
  if (!(error instanceof DaemonError)) return 0;
  if (error.policy.retry === "never") return 4;
  const { code } = error.fault;
  return code === "registry_unreachable" ? 1 : code === "registry_timeout" ? 2 : 3;
}
