// SPDX-License-Identifier: Apache-2.0
// Readers as the kernel makes them look: the sizes of their READs by how they read, and never
// more than one READ at a time (kernel-notes/cachefiles-reads.md).

import { setTimeout as sleep } from "node:timers/promises";
import { BLOCK_BYTES, type Extent, KIB, extentEnd } from "../../../src/units.ts";
import type { SeededRandom } from "../../support/seeded-random.ts";
import type { FileDoor, FileObject } from "./file-door.ts";

/** What cat(1) reads by: twice the readahead window. */
const SEQUENTIAL_BYTES = 256 * KIB;
/** How readahead begins and how far it goes, for a program that reads in small pieces. */
const RAMP_FIRST_BYTES = 16 * KIB;
const RAMP_BYTES_MAX = 128 * KIB;

export class Reader {
  readonly #door: FileDoor;
  readonly #object: FileObject;
  /** Milliseconds that each read took, in order; the ones that needed no READ apart. */
  readonly missMs: number[] = [];
  hits = 0;

  constructor(door: FileDoor, object: FileObject) {
    this.#door = door;
    this.#object = object;
  }

  async read(extent: Extent): Promise<void> {
    const startMs = performance.now();
    const reads = await this.#door.read(this.#object, extent);
    if (reads === 0) this.hits += 1;
    else this.missMs.push(performance.now() - startMs);
  }

  /** From start to end, as cat(1) does. */
  async sequential(extent: Extent): Promise<void> {
    for (const piece of cut(extent, () => SEQUENTIAL_BYTES)) await this.read(piece);
  }

  /** From start to end in small read(2)s, of which readahead makes ever larger READs. */
  async ramp(extent: Extent): Promise<void> {
    const sizeOf = (index: number): number =>
      Math.min(RAMP_FIRST_BYTES * 2 ** index, RAMP_BYTES_MAX);
    for (const piece of cut(extent, sizeOf)) await this.read(piece);
  }

  /** Single blocks anywhere in the first `sizeBytes`, with a pause of up to `thinkMs` between. */
  async random(
    sizeBytes: number,
    { count, thinkMs, random }: { count: number; thinkMs: number; random: SeededRandom },
  ): Promise<void> {
    for (let n = 0; n < count; n += 1) {
      const block = random.between(0, sizeBytes / BLOCK_BYTES - 1);
      if (thinkMs > 0) await sleep(random.between(0, thinkMs));
      await this.read({ offset: block * BLOCK_BYTES, length: BLOCK_BYTES });
    }
  }
}

function* cut(extent: Extent, sizeOf: (index: number) => number): Generator<Extent, void> {
  const end = extentEnd(extent);
  for (let [offset, index] = [extent.offset, 0]; offset < end; index += 1) {
    const length = Math.min(sizeOf(index), end - offset);
    yield { offset, length };
    offset += length;
  }
}
