// SPDX-License-Identifier: Apache-2.0
// Which long requests are under way, and who joins them.

import { DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import { type Extent, extentEnd } from "../../units.ts";
import { withBounds } from "../deadline.ts";
import type { BlobLocation, FetchOptions } from "../source.ts";
import { LongRequest } from "./long-request.ts";
import type { RangeFetch } from "./range-fetch.ts";

/** At once: one that nobody goes on with holds a connection for a moment. */
const REQUESTS_MAX = 2;

export interface Share {
  readonly blob: BlobLocation;
  readonly wanted: Extent;
  readonly onPiece: (piece: Uint8Array) => void;
  /** A request may bring more than `wanted`. */
  readonly mayMake: boolean;
}

/** A long request that can be joined, and is yet to be made. */
export interface Prepared {
  readonly request: LongRequest;
  /** Settles when its first part has come. */
  readonly first: Promise<void>;
}

export class LongRequests {
  readonly #clock: Clock;
  readonly #closing: AbortSignal;
  /** With the blob, as one repository has it. */
  readonly #running = new Map<LongRequest, string>();

  constructor(clock: Clock, closing: AbortSignal) {
    this.#clock = clock;
    this.#closing = closing;
    closing.addEventListener("abort", () => this.#close(), { once: true });
  }

  /**
   * `joined`: `wanted` begins where a request under way stands; it settles when that has brought
   * what it will of it, and never rejects: why something is missing is found out by asking anew.
   * `made`: else, a request to be made for it and what is likely to follow. Neither: make your own.
   */
  share(
    of: Share,
    options: FetchOptions,
  ): { readonly joined?: Promise<LongRequest>; readonly made?: Prepared } {
    const { blob, wanted, onPiece, mayMake } = of;
    const { signal, next = 0, deadlineMs, onJoined } = options;
    const key = `${blob.origin.host} ${blob.origin.repository} ${blob.digest}`;
    const running = this.#find(key, wanted.offset);
    if (running !== undefined) {
      onJoined?.();
      const signals = [signal, this.#closing];
      const bounds = { clock: this.#clock, deadlineMs, signals, what: `blob ${blob.digest}` };
      const end = Math.min(extentEnd(wanted), extentEnd(running.wanted));
      const coming = withBounds(bounds, (scope) => running.join({ end, onPiece, signal: scope }));
      const over = (): LongRequest => running;
      return { joined: coming.then(over, over) };
    }
    const more = Math.min(next, (blob.size ?? 0) - extentEnd(wanted));
    if (!mayMake || more <= 0 || this.#running.size >= REQUESTS_MAX) return {};
    const request: LongRequest = new LongRequest({
      clock: this.#clock,
      wanted: { offset: wanted.offset, length: wanted.length + more },
      onOver: () => this.#running.delete(request),
    });
    this.#running.set(request, key);
    const first = request.join({ end: extentEnd(wanted), onPiece, signal });
    // It may fail before anybody waits for it.
    first.catch(() => undefined);
    return { made: { request, first } };
  }

  /**
   * Makes the request, at whatever upstream: `run` fetches a range, ended by the signal. Settles as its
   * first part does, with what the request failed with; it goes on for those who join.
   */
  async make(
    { request, first }: Prepared,
    run: (range: Omit<RangeFetch, "blob">, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const range = {
      wanted: request.wanted,
      onPiece: (piece: Uint8Array): void => request.take(piece),
      onFlow: request.begin.bind(request),
    };
    const over = (error?: unknown): void => request.fail(error);
    run(range, request.signal).then(over, over);
    await first;
  }

  #find(key: string, offset: number): LongRequest | undefined {
    for (const [one, of] of this.#running) if (of === key && one.next === offset) return one;
    return undefined;
  }

  #close(): void {
    const stopping = new DaemonError({ code: "stopping" });
    for (const request of this.#running.keys()) request.fail(stopping);
  }
}
