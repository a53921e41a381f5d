// SPDX-License-Identifier: Apache-2.0
// One direction of an emulated link: all its connections share a wire that carries so many bytes
// a second, and what it has carried arrives half a round trip later.
//
//   push -> queue of its lane -> wire (a quantum each in turn) -> on the way -> delivered
//
// Latency belongs to bytes in flight, any number of which are on the way at once. Queues are
// served in turn, as fq_codel does: a bulk transfer does not stand before a small answer.

import type { Clock } from "../../../src/platform/clock.ts";
import type { SeededRandom } from "../../support/seeded-random.ts";

export interface LinkShape {
  readonly roundTripMs: number;
  /** Bytes a second of the whole link, in each direction; 0: no limit. */
  readonly bandwidth: number;
  /** Bytes a second of one connection; 0: no limit. */
  readonly connectionBandwidth: number;
  /** Chance that a quantum is lost: its connection stalls until it has been sent again. */
  readonly loss: number;
}

export interface LaneTarget {
  deliver(bytes: Uint8Array): void;
  end(): void;
}

/** What is carried before it is another lane's turn. */
const QUANTUM_BYTES = 16 * 1024;
/** A timer that comes late does not cost bandwidth; a process that slept does. */
const CATCH_UP_MS = 20;
/** Timers tell whole milliseconds: as much too early as too late. */
const EARLY_MS = 0.6;
/** The least time after which a sender that hears nothing sends again. */
const RETRANSMIT_MS_MIN = 200;
/** Of losses, those that no later packet reveals. */
const TAIL_LOSSES = 0.1;

/** One direction of one connection. */
export class Lane {
  readonly target: LaneTarget;
  /** Waits for the wire. */
  readonly queue: Uint8Array[] = [];
  /** Undefined: the end of the stream. */
  readonly way: { readonly dueMs: number; readonly bytes: Uint8Array | undefined }[] = [];
  /** Queued or on the way. */
  pendingBytes = 0;
  /** Nothing of it arrives before: a handshake, or a loss that holds up all that follows. */
  notBeforeMs: number;
  /** When its own limit lets it send again. */
  sendsAtMs = 0;
  isEnding = false;

  constructor(target: LaneTarget, notBeforeMs: number) {
    this.target = target;
    this.notBeforeMs = notBeforeMs;
  }
}

export class Wire {
  carriedBytes = 0;
  losses = 0;
  #shape: LinkShape;
  readonly #clock: Clock;
  readonly #random: SeededRandom;
  readonly #lanes = new Set<Lane>();
  /** Lanes with something to send; the first is next. */
  #sending: Lane[] = [];
  #freeAtMs = 0;
  #cancelTimer: (() => void) | undefined;

  constructor(shape: LinkShape, clock: Clock, random: SeededRandom) {
    this.#shape = shape;
    this.#clock = clock;
    this.#random = random;
  }

  set shape(shape: LinkShape) {
    this.#shape = shape;
  }

  push(lane: Lane, bytes: Uint8Array): void {
    lane.pendingBytes += bytes.byteLength;
    this.#send(lane, bytes);
  }

  end(lane: Lane): void {
    lane.isEnding = true;
    this.#send(lane, undefined);
  }

  /** Its connection is gone, and with it what is under way. */
  drop(lane: Lane): void {
    lane.queue.length = 0;
    lane.way.length = 0;
    this.#lanes.delete(lane);
    this.#sending = this.#sending.filter((other) => other !== lane);
  }

  #send(lane: Lane, bytes: Uint8Array | undefined): void {
    // An idle wire begins now.
    if (this.#sending.length === 0) this.#freeAtMs = Math.max(this.#freeAtMs, this.#clock.nowMs());
    if (bytes !== undefined) lane.queue.push(bytes);
    this.#lanes.add(lane);
    if (!this.#sending.includes(lane)) this.#sending.push(lane);
    this.#turn();
  }

  #turn(): void {
    const nowMs = this.#clock.nowMs();
    this.#carry(nowMs);
    this.#deliver(nowMs);
    this.#setTimer(nowMs);
  }

  /** Puts on the way what the wire could carry until now. */
  #carry(nowMs: number): void {
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs - CATCH_UP_MS);
    let held = 0;
    while (held < this.#sending.length && this.#freeAtMs <= nowMs) {
      const lane = this.#sending.shift();
      if (lane === undefined) return;
      if (lane.sendsAtMs > nowMs) {
        held += 1;
        this.#sending.push(lane);
        continue;
      }
      held = 0;
      this.#carryQuantum(lane, nowMs);
      if (lane.queue.length > 0) this.#sending.push(lane);
      else if (lane.isEnding) lane.way.push({ dueMs: this.#dueMs(lane), bytes: undefined });
    }
    if (this.#sending.length > 0 && held === this.#sending.length) this.#freeAtMs = nowMs;
  }

  #carryQuantum(lane: Lane, nowMs: number): void {
    const { bandwidth, connectionBandwidth, loss, roundTripMs } = this.#shape;
    if (loss > 0 && lane.queue.length > 0 && this.#random.chance(loss)) {
      this.losses += 1;
      const tail = this.#random.chance(TAIL_LOSSES);
      const stallMs = tail ? Math.max(RETRANSMIT_MS_MIN, 2 * roundTripMs) : roundTripMs;
      lane.notBeforeMs = this.#dueMs(lane) + stallMs;
    }
    let room = QUANTUM_BYTES;
    for (let first = lane.queue[0]; first !== undefined && room > 0; first = lane.queue[0]) {
      const bytes = first.byteLength <= room ? first : first.subarray(0, room);
      if (bytes === first) lane.queue.shift();
      else lane.queue[0] = first.subarray(room);
      room -= bytes.byteLength;
      if (bandwidth > 0) this.#freeAtMs += (bytes.byteLength * 1000) / bandwidth;
      lane.way.push({ dueMs: this.#dueMs(lane), bytes });
    }
    const carried = QUANTUM_BYTES - room;
    this.carriedBytes += carried;
    if (connectionBandwidth > 0) {
      const fromMs = Math.max(lane.sendsAtMs, nowMs - CATCH_UP_MS);
      lane.sendsAtMs = fromMs + (carried * 1000) / connectionBandwidth;
    }
  }

  #dueMs(lane: Lane): number {
    return Math.max(this.#freeAtMs + this.#shape.roundTripMs / 2, lane.notBeforeMs);
  }

  #deliver(nowMs: number): void {
    for (const lane of this.#lanes) {
      let count = 0;
      for (const { dueMs, bytes } of lane.way) {
        if (dueMs > nowMs + EARLY_MS) break;
        count += 1;
        if (bytes === undefined) {
          lane.target.end();
          break;
        }
        lane.pendingBytes -= bytes.byteLength;
        lane.target.deliver(bytes);
      }
      if (count > 0) lane.way.splice(0, count);
      if (lane.way.length === 0 && lane.queue.length === 0) this.#lanes.delete(lane);
    }
  }

  #setTimer(nowMs: number): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    let nextMs = Infinity;
    for (const lane of this.#lanes) nextMs = Math.min(nextMs, lane.way[0]?.dueMs ?? Infinity);
    for (const lane of this.#sending) {
      nextMs = Math.min(nextMs, Math.max(this.#freeAtMs, lane.sendsAtMs));
    }
    if (nextMs === Infinity) return;
    this.#cancelTimer = this.#clock.after(Math.max(0, nextMs - nowMs), () => {
      this.#turn();
    });
  }
}
