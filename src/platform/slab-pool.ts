// SPDX-License-Identifier: Apache-2.0
// A bounded pool of page-aligned buffers ("slabs"), the only memory that fetched bytes pass
// through: it is what limits bytes in flight. Who gets the next one when there is no room is not
// the pool's to say.
//
//   arena  |slab |slab       |.....|slab |...........|   in slots of `slabBytes`
//
// Fresh memory is dear (20 ms a MiB in a slow guest when it is touched page by page, and much of it
// at once makes V8 collect garbage), so slabs are cut from one arena that is never given back, each
// where the lowest room is: what has been touched is used again. What has not is made at once, while
// the bytes that it is for are on their way.

import { invariant } from "../errors.ts";
import { GIB, alignUp } from "../units.ts";

export interface Slab {
  readonly bytes: Uint8Array;
}

/** What one allocation gives everywhere. */
const ARENA_BYTES_MAX = GIB;

export interface SlabPoolOptions {
  /** A slab is one or more times this long. */
  readonly slabBytes: number;
  /** Of the shortest slabs. */
  readonly slabsMax: number;
  /** Page-aligned memory, zeroed. */
  readonly allocate: (bytes: number) => Uint8Array;
  /** Told of memory that is about to be used for the first time. */
  readonly populate?: (bytes: Uint8Array) => void;
}

interface Arena {
  readonly bytes: Uint8Array;
  /** Of each slot: 1 when it is lent. */
  readonly lent: Uint8Array;
  /** Of each slot: bytes from its start that have been populated. */
  readonly populated: Uint32Array;
}

interface Place {
  /** Undefined: memory of its own, for what is longer than all arenas. */
  readonly arena: Arena | undefined;
  readonly slot: number;
  readonly slots: number;
}

export class SlabPool {
  readonly slabBytes: number;
  readonly slabsMax: number;
  readonly #bytesMax: number;
  readonly #allocate: (bytes: number) => Uint8Array;
  readonly #populate: ((bytes: Uint8Array) => void) | undefined;
  readonly #arenas: Arena[] = [];
  readonly #lent = new Map<Slab, Place>();
  #slotsMade = 0;
  #lentBytes = 0;

  constructor(options: SlabPoolOptions) {
    invariant(options.slabsMax >= 1, "a slab pool has at least one slab");
    this.slabBytes = options.slabBytes;
    this.slabsMax = options.slabsMax;
    this.#bytesMax = options.slabsMax * options.slabBytes;
    this.#allocate = options.allocate;
    this.#populate = options.populate;
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
    return Math.max(this.slabBytes, alignUp(bytes, this.slabBytes));
  }

  /** True when `tryAcquire(bytes)` would give one. */
  hasRoom(bytes: number): boolean {
    const size = this.slabSize(bytes);
    if (size > this.#bytesMax) return this.#lentBytes === 0;
    return this.#findRoom(size / this.slabBytes) !== undefined;
  }

  /**
   * A slab of at least `bytes` bytes, whose content is whatever was there before; undefined when
   * there is no room for it. One that is larger than the whole pool is lent when nothing else is.
   */
  tryAcquire(bytes = this.slabBytes): Slab | undefined {
    const size = this.slabSize(bytes);
    if (size > this.#bytesMax) {
      if (this.#lentBytes > 0) return undefined;
      return this.#lend(this.#allocate(size), { arena: undefined, slot: 0, slots: 0 });
    }
    const slots = size / this.slabBytes;
    const room = this.#findRoom(slots);
    if (room === undefined) return undefined;
    const arena = room.arena ?? this.#makeArena();
    arena.lent.fill(1, room.slot, room.slot + slots);
    this.#prepare(arena, room.slot, bytes);
    const from = room.slot * this.slabBytes;
    return this.#lend(arena.bytes.subarray(from, from + size), { arena, slot: room.slot, slots });
  }

  /** Makes the slab of a first fetch, in memory that is there: the first reader waits for none. */
  warmUp(): void {
    const slab = this.tryAcquire(2 * this.slabBytes);
    if (slab !== undefined) this.release(slab);
  }

  /** Gives a slab back. Nothing may still read or write it. */
  release(slab: Slab): void {
    const place = this.#lent.get(slab);
    invariant(place !== undefined, "a slab is given back once");
    this.#lent.delete(slab);
    this.#lentBytes -= slab.bytes.length;
    place.arena?.lent.fill(0, place.slot, place.slot + place.slots);
  }

  #lend(bytes: Uint8Array, place: Place): Slab {
    const slab = { bytes };
    this.#lent.set(slab, place);
    this.#lentBytes += bytes.length;
    return slab;
  }

  #prepare({ bytes, populated }: Arena, slot: number, needed: number): void {
    let [from, end] = [0, 0];
    for (let at = slot, left = needed; left > 0; at += 1, left -= this.slabBytes) {
      const length = Math.min(left, this.slabBytes);
      if ((populated[at] ?? 0) >= length) continue;
      populated[at] = length;
      if (end === 0) from = at * this.slabBytes;
      end = at * this.slabBytes + length;
    }
    if (end > 0) this.#populate?.(bytes.subarray(from, end));
  }

  /** The lowest free slots in a row; without an arena: in one that is yet to be made. */
  #findRoom(slots: number): { arena: Arena | undefined; slot: number } | undefined {
    // Beside one that is longer than the pool there is none, wherever it lies.
    if (this.#lentBytes + slots * this.slabBytes > this.#bytesMax) return undefined;
    for (const arena of this.#arenas) {
      let free = 0;
      for (let slot = 0; slot < arena.lent.length; slot += 1) {
        free = arena.lent[slot] === 0 ? free + 1 : 0;
        if (free === slots) return { arena, slot: slot + 1 - slots };
      }
    }
    return this.#nextArenaSlots >= slots ? { arena: undefined, slot: 0 } : undefined;
  }

  get #nextArenaSlots(): number {
    const most = Math.max(1, Math.floor(ARENA_BYTES_MAX / this.slabBytes));
    return Math.min(most, this.slabsMax - this.#slotsMade);
  }

  #makeArena(): Arena {
    const slots = this.#nextArenaSlots;
    const bytes = this.#allocate(slots * this.slabBytes);
    const arena = { bytes, lent: new Uint8Array(slots), populated: new Uint32Array(slots) };
    this.#arenas.push(arena);
    this.#slotsMade += slots;
    return arena;
  }
}
