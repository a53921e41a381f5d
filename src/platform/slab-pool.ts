// SPDX-License-Identifier: Apache-2.0
// A bounded pool of page-aligned buffers ("slabs"), the only memory that fetched bytes pass
// through: it is what limits bytes in flight. Fresh memory is dear (38 ms a MiB in a slow
// guest), so slabs are made on first use and then kept. Who gets the next one when all are lent
// is not the pool's to say.
//
// A slab is one or more times `slabBytes` long, doubled until it is long enough: chunks may be
// larger than the usual fetch, and the few sizes are found again.

import { invariant } from "../errors.ts";
import { KIB } from "../units.ts";

export interface Slab {
  readonly bytes: Uint8Array;
}

/** 2 ms of a slow guest at a time. */
const WARM_STEP_BYTES = 64 * KIB;

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
  readonly #lent = new Set<Slab>();
  /** Of all slabs, lent and free. */
  #bytes = 0;
  #lentBytes = 0;

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

  /** Bytes of the slabs that are lent. */
  get lentBytes(): number {
    return this.#lentBytes;
  }

  /** All slabs together are never longer, but for a single one that is. */
  get bytesMax(): number {
    return this.#bytesMax;
  }

  /** The length of the slab that `acquire(bytes)` gives: what it costs of the pool. */
  slabSize(bytes: number): number {
    let size = this.slabBytes;
    while (size < bytes) size *= 2;
    return size;
  }

  /**
   * A slab of at least `bytes` bytes, whose content is whatever was there before; undefined when
   * there is no room for it. One that is larger than the whole pool is lent when nothing else is.
   */
  tryAcquire(bytes = this.slabBytes): Slab | undefined {
    const size = this.slabSize(bytes);
    const slab = this.#takeFree(size) ?? this.#make(size);
    if (slab === undefined) return undefined;
    this.#lent.add(slab);
    this.#lentBytes += slab.bytes.length;
    return slab;
  }

  /** Makes the slab of a first fetch, in memory that is there: the first reader waits for none. */
  async warmUp(nextTurn: () => Promise<void>): Promise<void> {
    const slab = this.tryAcquire(2 * this.slabBytes);
    if (slab === undefined) return;
    for (let at = 0; at < slab.bytes.length; at += WARM_STEP_BYTES) {
      slab.bytes.fill(0, at, at + WARM_STEP_BYTES);
      await nextTurn();
    }
    this.release(slab);
  }

  /** Gives a slab back. Nothing may still read or write it. */
  release(slab: Slab): void {
    invariant(this.#lent.delete(slab), "a slab is given back once");
    this.#lentBytes -= slab.bytes.length;
    this.#free.push(slab);
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
    const bytes = this.#allocate(size);
    this.#bytes += size;
    return { bytes };
  }
}
