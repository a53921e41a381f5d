// SPDX-License-Identifier: Apache-2.0
// One fetch in progress: a range of a stream on its way from the source, through one slab,
// into the cache file of every open object that wants it.
//
//   slab   |##### written #####|#### usable ####|.... to come ....|
//
//   queued (for its turn) -> fetching -> draining (all has arrived, or will never) -> ended
//
// Bytes stay in the slab until the flight ends, so an object that joins late still gets all
// of them. A byte is written only after it has been taken whole from the source, in 4 KiB
// blocks, and a reader is answered only after its last block is written: what a reader waits
// for goes first, the rest in large writes when all has arrived.

import { DaemonError, asDaemonError, invariant } from "../errors.ts";
import { minus } from "../planner/plan-fill.ts";
import type { Slab } from "../platform/slab-pool.ts";
import { type Extent, MIB, extentEnd, overlaps } from "../units.ts";
import { Turn } from "./fetch-queue.ts";
import type { FlightParts } from "./flight-parts.ts";
import { type Intake, rawIntake, storedRoom, unitIntake } from "./intake.ts";
import { Arrivals } from "./arrivals.ts";
import type { WriteSource } from "./object-writes.ts";
import type { OpenObject } from "./open-object.ts";

/** What a reader waits for is written with up to so much of what follows it. */
const URGENT_WRITE_BYTES = MIB;
/** What nobody waits for is written in such pieces, once there is one. */
const BULK_WRITE_BYTES = 2 * MIB;

interface Target {
  /** Bytes from the start that are in the file, or bad. */
  written: number;
}

export class Flight implements WriteSource {
  readonly extent: Extent;
  /** As it was launched. */
  readonly by: Pick<FlightParts, "urgency" | "deadlineMs" | "isSecondTry">;
  readonly #parts: FlightParts;
  readonly #turn: Turn;
  readonly #abort = new AbortController();
  /** Aborted when a reader waits. */
  readonly #awaited = new AbortController();
  readonly #targets = new Map<OpenObject, Target>();
  readonly #arrivals = new Arrivals();
  #slab: Slab | undefined;
  #intake: Intake | undefined;
  #fetched = 0;
  /** Bytes from the start that may be written, but for those in #bad. */
  #usable = 0;
  /** Units that failed, in logical order. */
  readonly #bad: { readonly extent: Extent; readonly error: DaemonError }[] = [];
  #draining = false;
  #error: DaemonError | undefined;
  #pins = 0;
  #writesUnderWay = 0;
  #drained: (() => void) | undefined;

  constructor(parts: FlightParts) {
    this.extent = parts.extent;
    this.by = parts;
    this.#parts = parts;
    this.#turn = new Turn({
      host: parts.host,
      urgency: parts.urgency,
      deadlineMs: parts.deadlineMs,
      bytes: parts.stored.length,
      slabBytes: parts.extent.length + storedRoom(parts.units, parts),
      group: parts.group,
      airBytes: parts.airBytes,
    });
  }

  /** What of it may still come. */
  get promised(): readonly Extent[] {
    // A fetch that has failed still brings what has come of it.
    const hasFailed = this.#draining && this.#error !== undefined;
    const all = hasFailed ? { ...this.extent, length: this.#usable } : this.extent;
    if (this.#bad.length === 0) return [all];
    return minus(
      [all],
      this.#bad.map(({ extent }) => extent),
    );
  }

  /** A reader waits for some of it now, until `deadlineMs`. */
  promote(deadlineMs: number): void {
    this.#awaited.abort();
    this.#parts.queue.promote(this.#turn, deadlineMs);
  }

  /** Gives it up when it has not begun and nobody waits for it. */
  withdraw(): void {
    if (this.#parts.isFirm || this.#pins > 0 || !this.#parts.queue.isWaiting(this.#turn)) return;
    for (const object of this.#targets.keys()) if (object.isAwaiting(this.extent)) return;
    this.#cancel("read-ahead nobody needs any more");
  }

  /** `object` wants what this flight promises, or has a new reader waiting for some of it. */
  addTarget(object: OpenObject): void {
    if (!this.#targets.has(object)) {
      this.#targets.set(object, { written: 0 });
      object.writes.add(this);
    }
    this.advance();
  }

  /** Nobody needs `object`'s copy any more; without targets and pins the fetch is cancelled. */
  removeTarget(object: OpenObject): void {
    this.#forget(object);
    this.advance();
    this.#cancelWhenUnwanted();
  }

  #forget(object: OpenObject): void {
    this.#targets.delete(object);
    object.writes.delete(this);
  }

  /** Keeps the flight alive without a target until the returned function is called. */
  pin(): () => void {
    this.#pins += 1;
    let pinned = true;
    return () => {
      if (!pinned) return;
      pinned = false;
      this.#pins -= 1;
      this.advance();
      this.#cancelWhenUnwanted();
    };
  }

  /** The first `bytes` bytes, as soon as they have arrived; valid while the flight is pinned. */
  untilArrived(bytes: number): Promise<Uint8Array> {
    const arrival = this.#arrivals.until(bytes);
    this.#settleArrivals();
    return arrival;
  }

  abort(error: DaemonError): void {
    this.#abort.abort(error);
  }

  /** Runs to the end; never rejects. */
  async run(): Promise<void> {
    const { queue, stored } = this.#parts;
    try {
      this.#slab = await queue.take(this.#turn, this.#abort.signal);
      this.#abort.signal.throwIfAborted();
      this.#intake = this.#makeIntake(this.#slab);
      await this.#fetch();
      // A source that gives too little or too much must never turn into bytes of the image.
      this.#abort.signal.throwIfAborted();
      invariant(this.#fetched === stored.length, "a fetch that resolves has given every byte");
      await this.#intake.finish();
    } catch (error) {
      this.#error = asDaemonError(error);
    }
    const intake = this.#intake;
    this.#intake = undefined;
    await intake?.idle();
    this.#draining = true;
    this.#settleArrivals();
    if (this.#error !== undefined) this.#fail(this.#error);
    this.advance();
    while (!this.#isDrained()) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
    // No await from here on: who joined after the last look would read a slab already given back.
    this.#parts.onUnjoinable();
    for (const object of this.#targets.keys()) object.writes.delete(this);
    if (this.#slab !== undefined) queue.release(this.#turn, this.#slab);
    this.#slab = undefined;
  }

  async #fetch(): Promise<void> {
    const { queue, meter, clock, host, stored, fetch, deadlineMs } = this.#parts;
    const measure = meter.began(host, clock.nowMs());
    const onPiece = (piece: Uint8Array): void => {
      measure.took(piece.byteLength, clock.nowMs());
      queue.took(this.#turn, piece.byteLength);
      this.#take(piece);
    };
    const { signal } = this.#abort;
    const awaited = this.#awaited.signal;
    const { next } = this.#parts;
    const { urgency } = this.#turn;
    const onJoined = (): void => measure.joined(clock.nowMs());
    const by = {
      urgency,
      isPatient: urgency === "demand",
      awaited,
      next,
      onJoined,
      avoidPeers: this.#parts.isSecondTry,
    };
    try {
      await fetch(stored, onPiece, { signal, deadlineMs, ...by });
    } finally {
      measure.ended(clock.nowMs());
      queue.requestEnded(this.#turn);
    }
  }

  #makeIntake(slab: Slab): Intake {
    const { extent, stored, units, decode, verify } = this.#parts;
    const parts = {
      extent,
      stored,
      slab: slab.bytes,
      onSettled: (end: number): void => {
        this.#usable = end - extent.offset;
        this.#settleArrivals();
        this.advance();
      },
      onBad: (bad: Extent, error: DaemonError): void => {
        this.#bad.push({ extent: bad, error });
        this.#bad.sort((a, b) => a.extent.offset - b.extent.offset);
        this.#parts.onFailure(bad, error, [...this.#targets.keys()]);
      },
    };
    return units === undefined ? rawIntake(parts, verify) : unitIntake(parts, units, decode);
  }

  /** Starts every write that is due. Called when bytes arrive, targets change, time passes. */
  advance(): void {
    for (const object of this.#targets.keys()) object.writes.pump();
    this.#settleDrain();
  }

  #settleDrain(): void {
    if (this.#draining && this.#isDrained()) this.#drained?.();
  }

  #take(piece: Uint8Array): void {
    // A piece of a fetch that was given up may still come.
    if (this.#intake === undefined || this.#abort.signal.aborted) return;
    if (this.#fetched + piece.byteLength > this.#parts.stored.length) {
      this.abort(new DaemonError({ code: "internal", detail: "a fetch gave more than was asked" }));
      return;
    }
    this.#fetched += piece.byteLength;
    this.#intake.take(piece);
    this.#settleArrivals();
  }

  /** Its promise never rejects. */
  async write(object: OpenObject, run: Extent): Promise<void> {
    const slab = this.#slab;
    invariant(slab !== undefined, "only what has come is written");
    const { offset: fileOffset, length } = run;
    const bytesOffset = fileOffset - this.extent.offset;
    const target = this.#targets.get(object);
    this.#writesUnderWay += 1;
    try {
      await object.kernel.write(slab.bytes, { bytesOffset, length, fileOffset });
      if (!object.closed) object.markCached(run);
      if (target !== undefined) this.#firstUnwritten(object, target);
    } catch (error) {
      this.#forget(object);
      if (!object.closed) {
        const rest = this.#restFrom(target?.written ?? 0);
        this.#parts.onFailure(rest, asDaemonError(error), [object]);
      }
      this.#cancelWhenUnwanted();
    } finally {
      this.#writesUnderWay -= 1;
      this.#settleDrain();
    }
  }

  /** What lets a reader of `object` go on, and a little more. */
  urgentRun(object: OpenObject): Extent | undefined {
    if (this.#usable === 0 || this.#slab === undefined) return undefined;
    const usable = { offset: this.extent.offset, length: this.#usable };
    for (const part of object.urgentParts(this.extent)) {
      const isHere = extentEnd(part) <= extentEnd(usable) && !this.#isBad(part);
      if (!isHere) continue;
      const end = Math.min(
        extentEnd(usable),
        Math.max(extentEnd(part), part.offset + URGENT_WRITE_BYTES),
      );
      const bad = this.#bad.find(({ extent }) => extent.offset >= extentEnd(part));
      const length = Math.min(end, bad?.extent.offset ?? end) - part.offset;
      return object.blocks.missing({ offset: part.offset, length })[0];
    }
    return undefined;
  }

  /** Bulk: nobody waits for it, so it goes in large writes. */
  nextRun(object: OpenObject): Extent | undefined {
    const target = this.#targets.get(object);
    if (target === undefined || this.#slab === undefined) return undefined;
    const run = this.#firstUnwritten(object, target);
    if (run === undefined) this.#settleDrain();
    if (run === undefined || (!this.#draining && run.length < BULK_WRITE_BYTES)) return undefined;
    return { ...run, length: Math.min(run.length, BULK_WRITE_BYTES) };
  }

  /** Moves `written` up to it, past what is bad or, by whomever, in the file already. */
  #firstUnwritten(object: OpenObject, target: Target): Extent | undefined {
    for (;;) {
      const end = this.#skipBad(target);
      if (end <= target.written) return undefined;
      const offset = this.extent.offset + target.written;
      const [run] = object.blocks.missing({ offset, length: end - target.written });
      if (run !== undefined) {
        target.written = run.offset - this.extent.offset;
        return run;
      }
      target.written = end;
    }
  }

  #isBad(part: Extent): boolean {
    return this.#bad.some(({ extent }) => overlaps(extent, part));
  }

  /** Passes over bad units; returns the end of the usable bytes that follow. */
  #skipBad(target: Target): number {
    let end = this.#usable;
    for (const { extent } of this.#bad) {
      const start = extent.offset - this.extent.offset;
      if (start > target.written) {
        end = Math.min(end, start);
        break;
      }
      target.written = Math.max(target.written, extentEnd(extent) - this.extent.offset);
    }
    return end;
  }

  // What has arrived is still written; who needs more is failed now, not after the last pin.
  #fail(error: DaemonError): void {
    this.#parts.onFailure(this.#restFrom(this.#usable), error, [...this.#targets.keys()]);
  }

  #isDrained(): boolean {
    // A removed target's write may still be reading the slab.
    if (this.#pins > 0 || this.#writesUnderWay > 0) return false;
    return [...this.#targets.values()].every((target) => target.written >= this.#usable);
  }

  #restFrom(written: number): Extent {
    return { offset: this.extent.offset + written, length: this.extent.length - written };
  }

  #cancelWhenUnwanted(): void {
    if (this.#targets.size > 0 || this.#pins > 0 || this.#draining) return;
    this.#cancel("a fetch nobody waits for");
  }

  #cancel(what: string): void {
    this.#parts.onUnjoinable();
    this.abort(new DaemonError({ code: "cancelled", what }));
  }

  #settleArrivals(): void {
    const { verify, units, stored } = this.#parts;
    const there = verify === undefined && units === undefined ? this.#fetched : this.#usable;
    const slab = this.#slab?.bytes;
    this.#arrivals.settle({ there, all: stored.length, slab, error: this.#error });
  }
}
