// SPDX-License-Identifier: Apache-2.0
// From stored bytes as they arrive to logical bytes that may be written: what a flight does with
// its slab. A raw stream's bytes are taken as they are; a stream of units is decoded and
// verified unit by unit, each as soon as it is whole.
//
//   slab   | logical bytes, usable up to `end` | stored bytes (units only) |
//
// A unit that is bad fails alone: its neighbours are as right as ever.

import type { DecodeUnit } from "../decoder/unit-decoder.ts";
import { type DaemonError, asDaemonError } from "../errors.ts";
import type { Unit } from "../image/chunk-map.ts";
import { BLOCK_BYTES, type Extent, alignDown, alignUp, extentEnd } from "../units.ts";

export interface IntakeParts {
  /** Logical; whole units. */
  readonly extent: Extent;
  readonly stored: Extent;
  readonly slab: Uint8Array;
  /** All bytes before logical `end` are usable or have failed. Rises. */
  readonly onSettled: (end: number) => void;
  /** These will never be usable. Told before onSettled passes them. */
  readonly onBad: (extent: Extent, error: DaemonError) => void;
}

export interface Intake {
  /** The next stored bytes; never more than `stored.length` in all. */
  take(piece: Uint8Array): void;
  /** All stored bytes have come. Rejects when they are refused as a whole. */
  finish(): Promise<void>;
  /** Resolves when nothing of it uses the slab any more. Never rejects. */
  idle(): Promise<void>;
}

/** Bytes of a slab that the flight needs beside its logical bytes. */
export function storedRoom(
  units: readonly Unit[] | undefined,
  { extent, stored }: Pick<IntakeParts, "extent" | "stored">,
): number {
  if (units === undefined || isInPlace(units, { extent, stored })) return 0;
  return alignUp(stored.length, BLOCK_BYTES);
}

/** Stored as they are and where they belong: they need not be moved within the slab. */
function isInPlace(
  units: readonly Unit[],
  { extent, stored }: Pick<IntakeParts, "extent" | "stored">,
): boolean {
  return units.every(({ codec, pieces, stored: { offset, length } }) => {
    const [piece, second] = pieces;
    if (codec !== "none" || piece === undefined || second !== undefined) return false;
    const isWhole = piece.from === 0 && piece.length === length && length % BLOCK_BYTES === 0;
    return isWhole && piece.offset - extent.offset === offset - stored.offset;
  });
}

/** `verify` sees all of it before any of it is usable; it throws to refuse. */
export function rawIntake(
  parts: IntakeParts,
  verify: ((bytes: Uint8Array) => void) | undefined,
): Intake {
  const { extent, stored, slab, onSettled } = parts;
  let taken = 0;
  return {
    take(piece) {
      slab.set(piece, taken);
      taken += piece.byteLength;
      if (verify === undefined) onSettled(extent.offset + alignDown(taken, BLOCK_BYTES));
    },
    finish() {
      slab.fill(0, stored.length, extent.length);
      try {
        verify?.(slab.subarray(0, stored.length));
      } catch (error) {
        return Promise.reject(asDaemonError(error));
      }
      onSettled(extentEnd(extent));
      return Promise.resolve();
    },
    idle: () => Promise.resolve(),
  };
}

export function unitIntake(parts: IntakeParts, units: readonly Unit[], decode: DecodeUnit): Intake {
  return new UnitIntake(parts, units, decode);
}

class UnitIntake implements Intake {
  readonly #parts: IntakeParts;
  readonly #units: readonly Unit[];
  readonly #decode: DecodeUnit;
  readonly #storedArea: Uint8Array;
  readonly #logical: Uint8Array;
  readonly #underWay = new Set<Promise<void>>();
  readonly #settled: boolean[];
  #taken = 0;
  #started = 0;
  #settledUnits = 0;

  constructor(parts: IntakeParts, units: readonly Unit[], decode: DecodeUnit) {
    this.#parts = parts;
    this.#units = units;
    this.#decode = decode;
    const { slab, extent, stored } = parts;
    this.#logical = slab.subarray(0, extent.length);
    const from = storedRoom(units, parts) === 0 ? 0 : extent.length;
    this.#storedArea = slab.subarray(from, from + stored.length);
    this.#settled = units.map(() => false);
  }

  take(piece: Uint8Array): void {
    this.#storedArea.set(piece, this.#taken);
    this.#taken += piece.byteLength;
    this.#start();
  }

  async finish(): Promise<void> {
    this.#start();
    await this.idle();
  }

  async idle(): Promise<void> {
    await Promise.all(this.#underWay);
  }

  #start(): void {
    const { stored } = this.#parts;
    for (;;) {
      const unit = this.#units[this.#started];
      if (unit === undefined || extentEnd(unit.stored) > stored.offset + this.#taken) return;
      const index = this.#started;
      this.#started += 1;
      const work = this.#run(unit, index).finally(() => this.#underWay.delete(work));
      this.#underWay.add(work);
    }
  }

  async #run(unit: Unit, index: number): Promise<void> {
    const { stored, extent, onBad } = this.#parts;
    const from = unit.stored.offset - stored.offset;
    const bytes = this.#storedArea.subarray(from, from + unit.stored.length);
    try {
      await this.#decode(unit, bytes, { bytes: this.#logical, offset: extent.offset });
    } catch (error) {
      onBad(unitExtent(unit), asDaemonError(error));
    }
    this.#settled[index] = true;
    while (this.#settled[this.#settledUnits] === true) this.#settledUnits += 1;
    const last = this.#units[this.#settledUnits - 1];
    if (last !== undefined) this.#parts.onSettled(extentEnd(unitExtent(last)));
  }
}

/** The logical blocks of a unit's pieces. */
function unitExtent({ pieces }: Unit): Extent {
  const first = pieces[0];
  const last = pieces.at(-1);
  if (first === undefined || last === undefined) throw new Error("a unit has pieces");
  const end = alignUp(last.offset + last.length, BLOCK_BYTES);
  return { offset: first.offset, length: end - first.offset };
}
