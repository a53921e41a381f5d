// SPDX-License-Identifier: Apache-2.0
// Who may fetch now: a turn is a place among a host's requests and a slab for what comes. Those
// that wait cost nothing but their entry here; planner/pick-next.ts says who is next.
//
//   take() -> waiting -> granted (slab, in the air) -> requestEnded() -> release()

import { invariant } from "../errors.ts";
import { type TurnLimits, pickNext } from "../planner/pick-next.ts";
import { LRUCache } from "lru-cache";
import { type Clock, cancelledBy } from "../platform/clock.ts";
import type { Slab, SlabPool } from "../platform/slab-pool.ts";
import { KIB, MIB, type Urgency, alignDown } from "../units.ts";

export interface TurnRequest {
  readonly host: string;
  readonly urgency: Urgency;
  readonly deadlineMs: number;
  /** Stored bytes that will come. */
  readonly bytes: number;
  /** Of the slab. */
  readonly slabBytes: number;
  readonly group: object;
  /** As in planner/pick-next.ts, by what is known of the host now. */
  readonly airBytes: () => number;
}

const HOSTS_MAX = 256;
/** How often a fetch's progress makes others look whether they may go. */
const GRANT_STEP_BYTES = 128 * KIB;
/** Of the pool, what a fetch for a reader in order may fill, unless one unit is longer. */
const ORDERED_SHARE = 1 / 8;
const ORDERED_BYTES_MAX = 4 * MIB;
/** Of the pool, what read-ahead and prefetch may fill. */
const BACKGROUND_SHARE = 3 / 4;

interface Waiting {
  readonly resolve: (slab: Slab) => void;
  readonly reject: (error: unknown) => void;
  readonly forget: () => void;
}

/** One fetch's turn, from the moment it asks. */
export class Turn {
  readonly host: string;
  /** Stored bytes that are still to come. */
  bytes: number;
  readonly storedBytes: number;
  hasCome = false;
  readonly slabBytes: number;
  readonly group: object;
  readonly airBytesNow: () => number;
  airBytes = 0;
  urgency: Urgency;
  deadlineMs: number;

  constructor(of: TurnRequest) {
    this.host = of.host;
    this.bytes = of.bytes;
    this.storedBytes = of.bytes;
    this.slabBytes = of.slabBytes;
    this.group = of.group;
    this.airBytesNow = of.airBytes;
    this.urgency = of.urgency;
    this.deadlineMs = of.deadlineMs;
  }
}

export class FetchQueue {
  readonly #slabs: SlabPool;
  readonly #limits: TurnLimits;
  readonly #waiting = new Map<Turn, Waiting>();
  /** In the air, or in memory. */
  readonly #held = new Set<Turn>();
  /** When a reader's fetch or read-ahead last began or ended, of each host. */
  readonly #lastMs = new LRUCache<string, number>({ max: HOSTS_MAX });
  readonly #clock: Clock;
  #isGranting = false;

  constructor(slabs: SlabPool, clock: Clock, limits: TurnLimits) {
    this.#clock = clock;
    this.#slabs = slabs;
    this.#limits = limits;
  }

  /** True while somebody who could go waits for memory, or for what goes before it. */
  get isShort(): boolean {
    return this.#waiting.size > 0;
  }

  /** The slab of one fetch for a reader in order: while others fetch too, half as long. */
  get orderedBytes(): number {
    const { slabBytes, bytesMax } = this.#slabs;
    const groups = new Set([...this.#waiting.keys(), ...this.#held].map(({ group }) => group));
    const share = groups.size > 1 ? ORDERED_SHARE / 2 : ORDERED_SHARE;
    const bytes = Math.min(ORDERED_BYTES_MAX, alignDown(bytesMax * share, slabBytes));
    return Math.max(slabBytes, bytes);
  }

  /** True while anything waits to be fetched from `host`, or is being. */
  isBusy(host: string): boolean {
    return this.#turnsOf(host).some(({ hasCome }) => !hasCome);
  }

  /** Stored bytes that are still to come from `host`. */
  bytesComing(host: string): number {
    return this.#turnsOf(host).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  #turnsOf(host: string): Turn[] {
    return [...this.#waiting.keys(), ...this.#held].filter((turn) => turn.host === host);
  }

  /** When something of `host` last began or ended. */
  lastTurnMs(host: string): number {
    return this.#lastMs.get(host) ?? Number.NEGATIVE_INFINITY;
  }

  /** Resolves when it is this turn's time, with its slab. Rejects when `signal` aborts before. */
  take(turn: Turn, signal: AbortSignal): Promise<Slab> {
    if (signal.aborted) return Promise.reject(cancelledBy(signal));
    return new Promise((resolve, reject) => {
      const aborted = (): void => {
        this.#waiting.delete(turn);
        reject(cancelledBy(signal));
        this.#grant();
      };
      signal.addEventListener("abort", aborted, { once: true });
      const forget = (): void => signal.removeEventListener("abort", aborted);
      this.#waiting.set(turn, { resolve, reject, forget });
      this.#grant();
    });
  }

  isWaiting(turn: Turn): boolean {
    return this.#waiting.has(turn);
  }

  /** A reader waits for it now. */
  promote(turn: Turn, deadlineMs: number): void {
    if (turn.urgency === "demand" && turn.deadlineMs <= deadlineMs) return;
    turn.urgency = "demand";
    turn.deadlineMs = Math.min(turn.deadlineMs, deadlineMs);
    this.#grant();
  }

  /** So many stored bytes of it have come: what follows may set out before its last one is here. */
  took(turn: Turn, bytes: number): void {
    const before = Math.floor(turn.bytes / GRANT_STEP_BYTES);
    turn.bytes = Math.max(0, turn.bytes - bytes);
    if (Math.floor(turn.bytes / GRANT_STEP_BYTES) !== before) this.#grant();
  }

  /** The host is free of it; its slab is still in use. */
  requestEnded(turn: Turn): void {
    if (turn.hasCome || !this.#held.has(turn)) return;
    turn.hasCome = true;
    turn.bytes = 0;
    this.#lastMs.set(turn.host, this.#clock.nowMs());
    this.#grant();
  }

  release(turn: Turn, slab: Slab): void {
    this.requestEnded(turn);
    this.#held.delete(turn);
    this.#slabs.release(slab);
    this.#grant();
  }

  #grant(): void {
    // Who is granted may at once ask for more.
    if (this.#isGranting || this.#waiting.size === 0) return;
    this.#isGranting = true;
    this.#measure();
    while (this.#grantOne());
    this.#isGranting = false;
  }

  /** Those who wait for one host go by the same figures: else who came later would overtake. */
  #measure(): void {
    const known = new Map<string, number>();
    for (const turn of this.#waiting.keys()) {
      turn.airBytes = known.get(turn.host) ?? turn.airBytesNow();
      known.set(turn.host, turn.airBytes);
    }
  }

  /** Whoever is next waits for memory alone: nobody overtakes it, or a large one would never go. */
  #grantOne(): boolean {
    if (this.#waiting.size === 0) return false;
    const turn = pickNext([...this.#waiting.keys()], [...this.#held], this.#limits);
    if (turn === undefined || !this.#mayFill(turn)) return false;
    const waiting = this.#waiting.get(turn);
    invariant(waiting !== undefined, "who is picked is waiting");
    try {
      const slab = this.#slabs.tryAcquire(turn.slabBytes);
      if (slab === undefined) return false;
      this.#held.add(turn);
      waiting.resolve(slab);
    } catch (error) {
      // No memory is to be had: this one fails, and the others still get their turn.
      waiting.reject(error);
    }
    this.#waiting.delete(turn);
    waiting.forget();
    return true;
  }

  #mayFill({ urgency, slabBytes }: Turn): boolean {
    const { lentBytes, bytesMax } = this.#slabs;
    if (urgency === "demand" || lentBytes === 0) return true;
    return lentBytes + this.#slabs.slabSize(slabBytes) <= bytesMax * BACKGROUND_SHARE;
  }
}
