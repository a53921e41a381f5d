// SPDX-License-Identifier: Apache-2.0
// Looks on while the engine launches flights and gives turns, from outside: every launch, every
// turn's state, and what was waiting at the very moment when somebody was granted memory.

import { getEventListeners } from "node:events";
import { FetchQueue, type Turn } from "../../../src/flow/fetch-queue.ts";
import { LinkMeter } from "../../../src/flow/link-meter.ts";
import { StreamFlow } from "../../../src/flow/stream-flow.ts";
import type { LinkFacts } from "../../../src/planner/link-facts.ts";
import type { Slab } from "../../../src/platform/slab-pool.ts";
import type { Extent, Urgency } from "../../../src/units.ts";

export interface SeenLaunch {
  readonly extent: Extent;
  readonly streamKey: string;
  /** As it was launched; a reader who joins may change its turn's. */
  readonly urgency: Urgency;
  readonly isSecondTry: boolean;
  readonly atMs: number;
  /** What the link was believed to be. */
  readonly link: LinkFacts | undefined;
  readonly turn: SeenTurn;
  /** The code of what the source did to it. */
  fault: string | undefined;
  /** The source gave wrong bytes. */
  lied: boolean;
}

export interface SeenTurn {
  readonly turn: Turn;
  readonly signal: AbortSignal;
  launch: SeenLaunch | undefined;
  /** It has had its slab. */
  isGranted: boolean;
  /** It was given up while it waited. */
  isGone: boolean;
  /** The host is free of it. */
  isEnded: boolean;
  /** Its slab is given back: nothing of it will be written any more. */
  isReleased: boolean;
}

/** A turn as it was when somebody got a slab. */
export interface Standing {
  readonly seen: SeenTurn;
  readonly host: string;
  readonly urgency: Urgency;
  readonly deadlineMs: number;
  /** Stored bytes to come, and all of them. */
  readonly bytes: number;
  readonly storedBytes: number;
  readonly group: object;
}

export interface Snapshot {
  readonly waiting: readonly Standing[];
  readonly inAir: readonly Standing[];
  /** In the air, or in memory. */
  readonly held: readonly Standing[];
  /** With the slab that has just been lent. */
  readonly lentBytes: number;
}

export interface Onlooker {
  /** Before it is carried out. */
  launching(flow: StreamFlow, extent: Extent, by: Parameters<StreamFlow["launch"]>[1]): void;
  granted(seen: SeenTurn, at: Snapshot): void;
}

let watching: TurnWatch | undefined;

export class TurnWatch {
  readonly turns: SeenTurn[] = [];
  readonly launches: SeenLaunch[] = [];
  /** What waits, is in the air, or has its slab. */
  readonly #live = new Set<SeenTurn>();
  readonly #facts = new Map<string, LinkFacts | undefined>();
  readonly #snapshots = new Map<Slab, Snapshot>();
  readonly #onlooker: Onlooker;
  readonly #own = new Map<AbortSignal, () => void>();
  #queue: FetchQueue | undefined;
  #launching: Omit<SeenLaunch, "turn"> | undefined;

  private constructor(onlooker: Onlooker) {
    this.#onlooker = onlooker;
  }

  /** The engine that is made next is looked at, until another watch begins. */
  static begin(onlooker: Onlooker): TurnWatch {
    const watch = new TurnWatch(onlooker);
    watching = watch;
    return watch;
  }

  factsOf(host: string): LinkFacts | undefined {
    return this.#facts.get(host);
  }

  believed(host: string, facts: LinkFacts | undefined): void {
    this.#facts.set(host, facts);
  }

  bySignal(signal: AbortSignal): SeenTurn | undefined {
    return [...this.#live].find((seen) => seen.signal === signal);
  }

  get waiting(): SeenTurn[] {
    return [...this.#live].filter(({ turn }) => this.#queue?.isWaiting(turn) === true);
  }

  get inAir(): SeenTurn[] {
    return [...this.#live].filter(
      (seen) => !seen.isGone && !seen.isEnded && this.#queue?.isWaiting(seen.turn) !== true,
    );
  }

  get held(): SeenTurn[] {
    return [...this.#live].filter(
      (seen) => !seen.isGone && this.#queue?.isWaiting(seen.turn) !== true,
    );
  }

  /** Listeners on the turns' signals that are not its own. */
  get listeners(): number {
    for (const [signal, own] of this.#own) signal.removeEventListener("abort", own);
    return this.turns.reduce(
      (sum, { signal }) => sum + getEventListeners(signal, "abort").length,
      0,
    );
  }

  withinLaunch<T>(
    flow: StreamFlow,
    of: { extent: Extent; by: Parameters<StreamFlow["launch"]>[1]; run: () => T },
  ): T {
    const { extent, by, run } = of;
    this.#onlooker.launching(flow, extent, by);
    const { urgency, isSecondTry = false } = by;
    const { key, host } = flow.stream;
    const link = this.#facts.get(host);
    const atMs = flow.parts.clock.nowMs();
    const sofar = { fault: undefined, lied: false };
    this.#launching = { extent, streamKey: key, urgency, isSecondTry, atMs, link, ...sofar };
    try {
      return run();
    } finally {
      this.#launching = undefined;
    }
  }

  asked(queue: FetchQueue, turn: Turn, signal: AbortSignal): SeenTurn {
    this.#queue = queue;
    const seen: SeenTurn = {
      turn,
      signal,
      launch: undefined,
      isGranted: false,
      isGone: false,
      isEnded: false,
      isReleased: false,
    };
    if (this.#launching !== undefined) {
      seen.launch = { ...this.#launching, turn: seen };
      this.launches.push(seen.launch);
    }
    this.turns.push(seen);
    this.#live.add(seen);
    // Before the queue's own listener: while it still waits.
    const aborted = (): void => {
      seen.isGone = queue.isWaiting(turn);
    };
    this.#own.set(signal, aborted);
    signal.addEventListener("abort", aborted, { once: true });
    return seen;
  }

  lent(slab: Slab, lentBytes: number): void {
    const [waiting = [], inAir = [], held = []] = [this.waiting, this.inAir, this.held].map(
      (seen) => seen.map(standing),
    );
    this.#snapshots.set(slab, { waiting, inAir, held, lentBytes });
  }

  granted(seen: SeenTurn, slab: Slab): void {
    seen.isGranted = true;
    const snapshot = this.#snapshots.get(slab);
    this.#snapshots.delete(slab);
    if (snapshot !== undefined) this.#onlooker.granted(seen, snapshot);
  }

  gaveUp(seen: SeenTurn): void {
    seen.isGone = true;
    // One that the queue still counts as waiting is looked at on.
    if (this.#queue?.isWaiting(seen.turn) !== true) this.#live.delete(seen);
  }

  ended(turn: Turn, isReleased: boolean): void {
    const seen = [...this.#live].find((one) => one.turn === turn);
    if (seen === undefined) return;
    seen.isEnded = true;
    seen.isReleased ||= isReleased;
    if (isReleased) this.#live.delete(seen);
  }
}

function standing(seen: SeenTurn): Standing {
  const { host, urgency, deadlineMs, bytes, storedBytes, group } = seen.turn;
  return { seen, host, urgency, deadlineMs, bytes, storedBytes, group };
}

function methodOf<O extends object, K extends keyof O>(of: O, name: K): O[K] {
  const method: unknown = Reflect.get(of, name);
  const isIt = (value: unknown): value is O[K] => typeof value === "function";
  if (!isIt(method)) throw new Error(`there is no ${String(name)}`);
  return method;
}

const take = methodOf(FetchQueue.prototype, "take");
FetchQueue.prototype.take = function watchedTake(turn, signal) {
  const watch = watching;
  const seen = watch?.asked(this, turn, signal);
  const slab = take.call(this, turn, signal);
  if (seen !== undefined) {
    slab.then(
      (lent) => watch?.granted(seen, lent),
      () => watch?.gaveUp(seen),
    );
  }
  return slab;
};

const requestEnded = methodOf(FetchQueue.prototype, "requestEnded");
FetchQueue.prototype.requestEnded = function watchedEnd(turn) {
  watching?.ended(turn, false);
  requestEnded.call(this, turn);
};

const release = methodOf(FetchQueue.prototype, "release");
FetchQueue.prototype.release = function watchedRelease(turn, slab) {
  watching?.ended(turn, true);
  release.call(this, turn, slab);
};

const launch = methodOf(StreamFlow.prototype, "launch");
StreamFlow.prototype.launch = function watchedLaunch(extent, by) {
  const run = () => launch.call(this, extent, by);
  return watching === undefined ? run() : watching.withinLaunch(this, { extent, by, run });
};

const facts = methodOf(LinkMeter.prototype, "facts");
LinkMeter.prototype.facts = function watchedFacts(host) {
  const found = facts.call(this, host);
  watching?.believed(host, found);
  return found;
};
