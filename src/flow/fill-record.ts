// SPDX-License-Identifier: Apache-2.0
// What is told of one fill, in the log at level trace and to the observer: how long it waited and
// how its bytes came. Nothing of the fill itself depends on it.

import type { Code, DaemonError } from "../errors.ts";
import { type Extent, type Urgency, extentEnd } from "../units.ts";
import type { FetchRange } from "./flight-parts.ts";
import type { FlowParts, Stream } from "./stream.ts";

export interface FillRecordParts extends Pick<FlowParts, "clock" | "log" | "observe"> {
  /** Tells fills apart. */
  readonly id: number;
  /** The READ it is made for. */
  readonly cause: number | undefined;
  readonly stream: Stream;
  readonly extent: Extent;
  readonly stored: Extent;
  readonly urgency: Urgency;
}

export class FillRecord {
  readonly #parts: FillRecordParts;
  readonly #launchedMs: number;
  readonly #ids: { readonly miss: number | undefined; readonly fetch: number };
  #fetchedBytes = 0;
  #wastedBytes = 0;
  #code: Code | undefined;

  constructor(parts: FillRecordParts) {
    this.#parts = parts;
    this.#launchedMs = parts.clock.nowMs();
    this.#ids = { miss: parts.cause, fetch: parts.id };
    const { stream, extent, stored, urgency } = parts;
    const what = { stream: stream.digest, from: stream.where, urgency, extent, stored };
    parts.log.trace({ ...this.#ids, ...what }, "fetch");
  }

  /** `fetch`, with its times and bytes told, and its request traceable to this fill. */
  observed(fetch: FetchRange): FetchRange {
    return async (stored, onPiece, options) => {
      const { clock, observe, urgency } = this.#parts;
      const beganMs = clock.nowMs();
      let firstMs: number | undefined;
      observe?.phase("queue", beganMs - this.#launchedMs);
      const take = (piece: Uint8Array): void => {
        if (firstMs === undefined) {
          firstMs = clock.nowMs();
          observe?.phase("first_byte", firstMs - beganMs);
        }
        this.#fetchedBytes += piece.byteLength;
        observe?.fetched(urgency, piece.byteLength);
        onPiece(piece);
      };
      await fetch(stored, take, { ...options, traced: this.#ids });
      if (firstMs !== undefined) observe?.phase("transfer", clock.nowMs() - firstMs);
    };
  }

  /** Part of it will never arrive, or could not be written. */
  failed(rest: Extent, error: DaemonError): void {
    const { code } = error.fault;
    this.#code ??= code;
    const { stream, extent, stored } = this.#parts;
    // What could not be written here may have been written elsewhere.
    if (code.startsWith("cache_") || rest.length === 0) return;
    const lost = stream.map.stored(rest);
    const isAllOfTheRest = extentEnd(rest) === extentEnd(extent);
    const before = lost.offset - stored.offset;
    const came = isAllOfTheRest ? this.#fetchedBytes - before : lost.length;
    this.#wastedBytes += Math.max(0, Math.min(came, lost.length));
  }

  ended(): void {
    const { clock, log, observe, stream, urgency } = this.#parts;
    const wastedBytes = Math.min(this.#wastedBytes, this.#fetchedBytes);
    const elapsedMs = clock.nowMs() - this.#launchedMs;
    const bytes = this.#fetchedBytes;
    log.trace({ ...this.#ids, bytes, wastedBytes, code: this.#code, elapsedMs }, "fetch ended");
    observe?.fillEnded({ host: stream.host, urgency, code: this.#code, wastedBytes });
  }
}
