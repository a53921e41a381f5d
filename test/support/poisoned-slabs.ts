// SPDX-License-Identifier: Apache-2.0
// A slab pool that tells when memory is touched which nobody has been lent: what is given back is
// poisoned, and must still be poison when it is lent again.

import { SlabPool, type Slab, type SlabPoolOptions } from "../../src/platform/slab-pool.ts";

const POISON = 0xdd;

/** So many bytes of it, all in one buffer: memcmp is what makes looking cheap. */
let ready = new Uint8Array(0);
function poison(length: number): Uint8Array {
  if (ready.length < length) ready = new Uint8Array(length).fill(POISON);
  return ready.subarray(0, length);
}

export class PoisonedSlabPool extends SlabPool {
  /** What has been done to slabs that should not have been. */
  readonly violations: string[] = [];
  onLent: (slab: Slab) => void = () => undefined;
  /** The loans, by slab. */
  readonly #lent = new Map<Slab, number>();
  #lastLease = 0;

  constructor(options: Omit<SlabPoolOptions, "allocate">) {
    // What an earlier tenant left in a slab must never show.
    super({ ...options, allocate: (bytes) => new Uint8Array(bytes).fill(POISON) });
  }

  override tryAcquire(bytes?: number): Slab | undefined {
    const slab = super.tryAcquire(bytes);
    if (slab === undefined) return undefined;
    if (Buffer.compare(slab.bytes, poison(slab.bytes.length)) !== 0) {
      this.violations.push("a slab was written after it had been given back");
    }
    this.#lent.set(slab, (this.#lastLease += 1));
    this.onLent(slab);
    const lentBytes = [...this.#lent.keys()].reduce((sum, one) => sum + one.bytes.length, 0);
    if (lentBytes > this.slabsMax * this.slabBytes && this.#lent.size > 1) {
      this.violations.push(`${lentBytes} bytes of slabs are lent`);
    }
    return slab;
  }

  override release(slab: Slab): void {
    this.#lent.delete(slab);
    slab.bytes.fill(POISON);
    super.release(slab);
  }

  /** Tells one loan of a slab's memory from the next; undefined while nobody has it. */
  leaseOf(bytes: Uint8Array): number | undefined {
    const { buffer, byteOffset } = bytes;
    for (const [{ bytes: slab }, lease] of this.#lent) {
      const isWithin = byteOffset >= slab.byteOffset && byteOffset < slab.byteOffset + slab.length;
      if (buffer === slab.buffer && isWithin) return lease;
    }
    return undefined;
  }
}
