// SPDX-License-Identifier: Apache-2.0
// A bounded pool of page-aligned buffers ("slabs"), the only memory that fetched bytes pass
// through: it is what limits bytes in flight. Fresh memory is dear (38 ms a MiB in a slow
// guest), so slabs are made on first use and then kept. Who finds none waits, first come
// first served.
//
// A slab is one or more times `slabBytes` long, doubled until it is long enough: chunks may be
// larger than the usual fetch, and the few sizes are found again.

import { cancelledBy } from "./clock.ts";
import { invariant } from "../errors.ts";
import { KIB } from "../units.ts";

export interface Slab {
  readonly bytes: Uint8Array;
}

/** 2 ms of a slow guest at a time. */
const WARM_STEP_BYTES = 64 * KIB;

interface Waiter {
  readonly bytes: number;
  readonly grant: (slab: Slab) => void;
}

export interface SlabPoolOptions {
  readonly slabBytes: number;
  /** Bytes of all slabs together, in slabs of `slabBytes`. */
  readonly slabsMax: number;
  readonly allocate: (bytes: number) => Uint8Array;
}

export class SlabPool {
  readonly slabBytes: number;
  readonly slabsMax: number;
  readonly #bytesMax: number;
  readonly #allocate: (bytes: number) => Uint8Array;
  readonly #free: Slab[] = [];
  readonly #waiters = new Set<Waiter>();
  readonly #lent = new Set<Slab>();
  /** Of all slabs, lent and free. */
  #bytes = 0;

  constructor(options: SlabPoolOptions) {
    invariant(options.slabsMax >= 1, "a slab pool has at least one slab");
    this.slabBytes = options.slabBytes;
    this.slabsMax = options.slabsMax;
    this.#bytesMax = options.slabsMax * options.slabBytes;
    this.#allocate = options.allocate;
  }

  get lentCount(): number {
    return this.#lent.size;
  }

  get waitingCount(): number {
    return this.#waiters.size;
  }

  /** The length of the slab that `acquire(bytes)` gives: what it costs of the pool. */
  slabSize(bytes: number): number {
    let size = this.slabBytes;
    while (size < bytes) size *= 2;
    return size;
  }

  /**
   * A slab of at least `bytes` bytes; its content is whatever was there before. One that is
   * larger than the whole pool is lent when nothing else is. Rejects when `signal` aborts.
   */
  acquire(signal: AbortSignal, bytes = this.slabBytes): Promise<Slab> {
    if (signal.aborted) return Promise.reject(cancelledBy(signal));
    // Nobody overtakes who waits, or a large slab would never be granted.
    const slab = this.#waiters.size === 0 ? this.#take(bytes) : undefined;
    if (slab !== undefined) return Promise.resolve(slab);
    return new Promise((resolve, reject) => {
      const aborted = (): void => {
        this.#waiters.delete(waiter);
        reject(cancelledBy(signal));
        this.#grant();
      };
      const waiter: Waiter = {
        bytes,
        grant: (granted) => {
          signal.removeEventListener("abort", aborted);
          resolve(granted);
        },
      };
      this.#waiters.add(waiter);
      signal.addEventListener("abort", aborted, { once: true });
    });
  }

  /** Makes the slab of a first fetch, in memory that is there: the first reader waits for none. */
  async warmUp(nextTurn: () => Promise<void>): Promise<void> {
    const never = new AbortController().signal;
    const slab = await this.acquire(never, 2 * this.slabBytes);
    for (let at = 0; at < slab.bytes.length; at += WARM_STEP_BYTES) {
      slab.bytes.fill(0, at, at + WARM_STEP_BYTES);
      await nextTurn();
    }
    this.release(slab);
  }

  /** Gives a slab back. Nothing may still read or write it. */
  release(slab: Slab): void {
    invariant(this.#lent.delete(slab), "a slab is given back once");
    this.#free.push(slab);
    this.#grant();
  }

  #grant(): void {
    for (const waiter of this.#waiters) {
      const slab = this.#take(waiter.bytes);
      if (slab === undefined) return;
      this.#waiters.delete(waiter);
      waiter.grant(slab);
    }
  }

  #take(bytes: number): Slab | undefined {
    const size = this.slabSize(bytes);
    const slab = this.#takeFree(size) ?? this.#make(size);
    if (slab !== undefined) this.#lent.add(slab);
    return slab;
  }

  #takeFree(size: number): Slab | undefined {
    const index = this.#free.findLastIndex((slab) => slab.bytes.length === size);
    return index === -1 ? undefined : this.#free.splice(index, 1)[0];
  }

  #make(size: number): Slab | undefined {
    while (this.#bytes + size > this.#bytesMax) {
      const idle = this.#free.shift();
      if (idle === undefined) break;
      this.#bytes -= idle.bytes.length;
    }
    if (this.#bytes + size > this.#bytesMax && this.#bytes > 0) return undefined;
    this.#bytes += size;
    return { bytes: this.#allocate(size) };
  }
}
