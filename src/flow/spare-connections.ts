// SPDX-License-Identifier: Apache-2.0
// A host that was left alone has one connection at best when a reader asks for the first byte, and
// that reader's next bytes would wait for another to be made. So one more is made meanwhile: names
// are resolved, a token is fetched, and what comes next finds the way there. A host that nobody has
// asked for anything has none: where readers are known to come, two are made before they do.

import { LRUCache } from "lru-cache";
import type { Clock } from "../platform/clock.ts";
import { ignoreBecause } from "../source/ignore.ts";
import type { FetchQueue } from "./fetch-queue.ts";
import type { LinkMeter } from "./link-meter.ts";
import type { Stream } from "./stream.ts";

const HOSTS_MAX = 256;
/** Idle connections live a little longer. */
const KNOWN_MS = 25_000;
/** The reader's own request goes first, or it would find its connection taken. */
const BEHIND_MS = 2;

export class SpareConnections {
  readonly #parts: { readonly clock: Clock; readonly queue: FetchQueue; readonly meter: LinkMeter };
  readonly #madeMs = new LRUCache<string, number>({ max: HOSTS_MAX });
  readonly #stopping = new AbortController();

  constructor(parts: { clock: Clock; queue: FetchQueue; meter: LinkMeter }) {
    this.#parts = parts;
  }

  /** A reader is about to ask for something of `stream`, until `deadlineMs`. */
  openBeside(stream: Stream, deadlineMs: number): void {
    if (!this.#isNewlyNeeded(stream)) return;
    const cancel = this.#parts.clock.after(BEHIND_MS, () => {
      this.#stopping.signal.removeEventListener("abort", cancel);
      this.#open(stream, deadlineMs);
    });
    this.#stopping.signal.addEventListener("abort", cancel, { once: true });
  }

  /** Readers of `stream` will come, and nobody has asked its host for anything yet. */
  openAhead(stream: Stream, deadlineMs: number): void {
    if (!this.#isNewlyNeeded(stream)) return;
    // The first reader's, and the one beside it.
    for (let count = 0; count < 2; count += 1) this.#open(stream, deadlineMs);
  }

  /** From now on it is not, for as long as connections live. */
  #isNewlyNeeded({ host, map }: Stream): boolean {
    const { clock, queue } = this.#parts;
    const nowMs = clock.nowMs();
    const lastMs = Math.max(queue.lastTurnMs(host), this.#madeMs.get(host) ?? -KNOWN_MS);
    if (queue.isBusy(host) || nowMs - lastMs < KNOWN_MS || map.sizeBytes === 0) return false;
    this.#madeMs.set(host, nowMs);
    return true;
  }

  stop(): void {
    this.#stopping.abort();
  }

  /** Asks for one byte. How it ends does not matter. */
  #open({ host, fetch }: Stream, deadlineMs: number): void {
    const { clock, meter } = this.#parts;
    const { signal } = this.#stopping;
    const measure = meter.began(host, clock.nowMs());
    const onPiece = (piece: Uint8Array): void => measure.took(piece.length, clock.nowMs());
    ignoreBecause(
      "a reader will meet the same fault and tell it",
      fetch({ offset: 0, length: 1 }, onPiece, { signal, deadlineMs, urgency: "prefetch" }).finally(
        () => measure.ended(clock.nowMs()),
      ),
    );
  }
}
