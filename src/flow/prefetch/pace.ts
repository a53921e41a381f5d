// SPDX-License-Identifier: Apache-2.0
// How large a prefetch flight may be and when the next one may start: 50 ms of what the link has
// shown, the operator's rate, and a wait that doubles while the source fails.

import { BLOCK_BYTES, KIB, MIB } from "../../units.ts";

/** A reader who comes while a flight is in the air shares the link with it for no longer. */
const FLIGHT_MS = 50;
/** Before anything is known of the link: what a slow one (40 Mbit/s) carries in that time. */
const FLIGHT_BYTES_FIRST = 256 * KIB;
const FLIGHT_BYTES_MAX = MIB;
/** Too short to tell the link's speed from how the pieces happened to be read. */
const MEASURABLE_MS = 5;
const WAIT_FIRST_MS = 1_000;
const WAIT_MAX_MS = 60_000;

/** The pieces of one flight as they come: the time before the first is latency, not bandwidth. */
export class Transfer {
  bytes = 0;
  #firstBytes = 0;
  #firstMs = 0;
  #lastMs = 0;

  took(bytes: number, nowMs: number): void {
    if (this.bytes === 0) {
      this.#firstBytes = bytes;
      this.#firstMs = nowMs;
    }
    this.bytes += bytes;
    this.#lastMs = nowMs;
  }

  /** From the first piece to the last, and what came in that time. */
  get measured(): { readonly bytes: number; readonly ms: number } {
    return { bytes: this.bytes - this.#firstBytes, ms: this.#lastMs - this.#firstMs };
  }
}

/** So many bytes a second: when the next may start. */
export class RateGate {
  #fromMs = 0;

  get startMs(): number {
    return this.#fromMs;
  }

  /** The rate has changed: what was paid for by the old one is forgotten. */
  forget(): void {
    this.#fromMs = 0;
  }

  launched(bytes: number, nowMs: number, bytesPerSecond: number): void {
    if (bytesPerSecond <= 0) return;
    this.#fromMs = Math.max(this.#fromMs, nowMs) + (bytes / bytesPerSecond) * 1000;
  }
}

export class PrefetchPace {
  readonly #gate = new RateGate();
  #bytesPerMs = FLIGHT_BYTES_FIRST / FLIGHT_MS;
  #waitMs = 0;
  #waitUntilMs = 0;

  /** Stored bytes of the next flight; one unit may be more. */
  flightBytes(bandwidthRate: number): number {
    const ofLink = Math.min(this.#bytesPerMs * FLIGHT_MS, FLIGHT_BYTES_MAX);
    // Not more than a second's share at once.
    const bytes = bandwidthRate > 0 ? Math.min(ofLink, bandwidthRate) : ofLink;
    return Math.max(BLOCK_BYTES, Math.floor(bytes / BLOCK_BYTES) * BLOCK_BYTES);
  }

  /** When the next flight may start, on the clock of the other calls. */
  get startMs(): number {
    return Math.max(this.#gate.startMs, this.#waitUntilMs);
  }

  /** True while the source fails: told once for each time that it begins to. */
  get isFailing(): boolean {
    return this.#waitMs > 0;
  }

  /** The operator lifted or changed the rate: what was paid for by the old one is forgotten. */
  forgetRate(): void {
    this.#gate.forget();
  }

  launched(bytes: number, nowMs: number, bandwidthRate: number): void {
    this.#gate.launched(bytes, nowMs, bandwidthRate);
  }

  succeeded(transfer: Transfer): void {
    this.#waitMs = 0;
    const { bytes, ms } = transfer.measured;
    if (ms < MEASURABLE_MS) {
      // Faster than can be told: as much again, at most.
      this.#bytesPerMs = Math.max(this.#bytesPerMs, (2 * transfer.bytes) / FLIGHT_MS);
    } else {
      this.#bytesPerMs = (this.#bytesPerMs + bytes / ms) / 2;
    }
  }

  failed(nowMs: number): void {
    // A second flight that fails in the same moment says nothing new.
    if (nowMs < this.#waitUntilMs) return;
    this.#waitMs = Math.min(WAIT_MAX_MS, this.#waitMs === 0 ? WAIT_FIRST_MS : 2 * this.#waitMs);
    this.#waitUntilMs = nowMs + this.#waitMs;
  }
}
