// SPDX-License-Identifier: Apache-2.0
// A bounded pool of page-aligned buffers ("slabs"), the only memory that fetched bytes pass
// through: it is what limits bytes in flight. Fresh memory is dear (38 ms a MiB in a slow
// guest), so slabs are made on first use and then kept. Who finds none waits, first come
// first served.

import { cancelledBy } from "./clock.ts";
import { invariant } from "../errors.ts";

export interface Slab {
  readonly bytes: Uint8Array;
}

interface Waiter {
  readonly grant: (slab: Slab) => void;
}

export interface SlabPoolOptions {
  readonly slabBytes: number;
  readonly slabsMax: number;
  readonly allocate: (bytes: number) => Uint8Array;
}

export class SlabPool {
  readonly slabBytes: number;
  readonly slabsMax: number;
  readonly #allocate: (bytes: number) => Uint8Array;
  readonly #free: Slab[] = [];
  readonly #waiters = new Set<Waiter>();
  readonly #lent = new Set<Slab>();

  constructor(options: SlabPoolOptions) {
    invariant(options.slabsMax >= 1, "a slab pool has at least one slab");
    this.slabBytes = options.slabBytes;
    this.slabsMax = options.slabsMax;
    this.#allocate = options.allocate;
  }

  get lentCount(): number {
    return this.#lent.size;
  }

  get waitingCount(): number {
    return this.#waiters.size;
  }

  /** A slab of `slabBytes`; its content is whatever was there before. Rejects when `signal` aborts. */
  acquire(signal: AbortSignal): Promise<Slab> {
    if (signal.aborted) return Promise.reject(cancelledBy(signal));
    const slab = this.#free.pop() ?? this.#make();
    if (slab !== undefined) {
      this.#lent.add(slab);
      return Promise.resolve(slab);
    }
    return new Promise((resolve, reject) => {
      const aborted = (): void => {
        this.#waiters.delete(waiter);
        reject(cancelledBy(signal));
      };
      const waiter: Waiter = {
        grant: (granted) => {
          signal.removeEventListener("abort", aborted);
          resolve(granted);
        },
      };
      this.#waiters.add(waiter);
      signal.addEventListener("abort", aborted, { once: true });
    });
  }

  /** Gives a slab back. Nothing may still read or write it. */
  release(slab: Slab): void {
    invariant(this.#lent.has(slab), "a slab is given back once");
    const [next] = this.#waiters;
    if (next === undefined) {
      this.#lent.delete(slab);
      this.#free.push(slab);
    } else {
      this.#waiters.delete(next);
      next.grant(slab);
    }
  }

  #make(): Slab | undefined {
    if (this.#lent.size + this.#free.length >= this.slabsMax) return undefined;
    return { bytes: this.#allocate(this.slabBytes) };
  }
}
