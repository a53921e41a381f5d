// SPDX-License-Identifier: Apache-2.0
// Fills parts of one stream's file, some at once.

import { DaemonError, asDaemonError } from "./errors.ts";
import { type Clock, sleep } from "./platform/clock.ts";
import type { FileDoor } from "./kernel/fanotify/file-door.ts";
import type { FileObject } from "./kernel/fanotify/file-object.ts";
import { BLOCK_BYTES, type Extent, MIB, alignDown, alignUp, extentEnd } from "./units.ts";

export const FILL_BYTES = MIB;
const FILLS_AT_ONCE = 8;
/** What failed is remembered for a second: it is not asked for before. */
const RETRY_MS = 1500;

export interface FillOptions {
  /** What may be filled, whole blocks. */
  readonly all: Extent;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** One part that failed for its source is asked for so often. */
  readonly tries: number;
  /** So many more bytes are there. */
  readonly onFilled?: ((bytes: number) => void) | undefined;
}

/** Fills parts of one object, some at once. */
export class Filler {
  readonly #door: FileDoor;
  readonly #object: FileObject;
  readonly #options: FillOptions;
  readonly #under = new Set<Promise<void>>();
  /** What was asked for later, whole blocks; neighbours come as one. */
  #later: Extent | undefined;
  #failure: unknown;

  constructor(door: FileDoor, object: FileObject, options: FillOptions) {
    this.#door = door;
    this.#object = object;
    this.#options = options;
  }

  /** Resolves when it is there; what lies behind the stream's end is left out. */
  async range(extent: Extent): Promise<void> {
    const { offset, length } = this.#blocks(extent);
    for (let at = offset; at < offset + length; at += FILL_BYTES) {
      while (this.#under.size >= FILLS_AT_ONCE) await Promise.race(this.#under);
      this.#start({ offset: at, length: Math.min(FILL_BYTES, offset + length - at) });
    }
    await this.#drained();
  }

  /** Resolves when all of them are there, in this order as far as possible. */
  async each(extents: readonly Extent[]): Promise<void> {
    for (const extent of extents) {
      while (this.#under.size >= FILLS_AT_ONCE) await Promise.race(this.#under);
      if (this.#failure !== undefined) break;
      this.#start(this.#blocks(extent));
    }
    await this.#drained();
  }

  /** It is there when `settled` has resolved. */
  later(extent: Extent): void {
    const { offset, length } = this.#blocks(extent);
    const before = this.#later;
    if (before !== undefined && offset >= before.offset && offset <= extentEnd(before)) {
      const end = Math.max(extentEnd(before), offset + length);
      this.#later = { offset: before.offset, length: end - before.offset };
      if (this.#later.length < FILL_BYTES) return;
      this.#flush();
      return;
    }
    this.#flush();
    this.#later = { offset, length };
  }

  async settled(): Promise<void> {
    this.#flush();
    await this.#drained();
  }

  #flush(): void {
    const extent = this.#later;
    this.#later = undefined;
    if (extent === undefined || extent.length === 0) return;
    for (let at = 0; at < extent.length; at += FILL_BYTES) {
      const length = Math.min(FILL_BYTES, extent.length - at);
      this.#start({ offset: extent.offset + at, length });
    }
  }

  #start(extent: Extent): void {
    const { signal, onFilled } = this.#options;
    if (this.#door.covers(this.#object, extent)) {
      onFilled?.(extent.length);
      return;
    }
    if (this.#failure !== undefined) return;
    if (signal.aborted) {
      this.#failure ??= new DaemonError({ code: "cancelled", what: "preparing a mount" });
      return;
    }
    const filling = this.#fill(extent)
      .then(() => onFilled?.(extent.length))
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#under.delete(filling));
    this.#under.add(filling);
  }

  async #fill(extent: Extent): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        await this.#door.fill(this.#object, extent);
        return;
      } catch (error) {
        const mayRetry = asDaemonError(error).policy.retry === "same-source";
        if (!mayRetry || tries >= this.#options.tries || this.#options.signal.aborted) throw error;
        await sleep(this.#options.clock, RETRY_MS, this.#options.signal);
      }
    }
  }

  async #drained(): Promise<void> {
    while (this.#under.size > 0) await Promise.race(this.#under);
    if (this.#failure !== undefined) throw asDaemonError(this.#failure);
  }

  #blocks(extent: Extent): Extent {
    const end = Math.min(alignUp(extentEnd(extent), BLOCK_BYTES), extentEnd(this.#options.all));
    const offset = Math.min(alignDown(extent.offset, BLOCK_BYTES), end);
    return { offset, length: end - offset };
  }
}
