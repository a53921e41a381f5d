// SPDX-License-Identifier: Apache-2.0
// What is kept of each chunk of a blob, in columns: at most 60 bytes a chunk, so that a blob of
// 2^24 chunks fits into memory, in the same form in memory and on disk. One pass checks that the
// columns describe a device without gaps whose data lies in the blob.

import { BLOCK_BYTES, MIB } from "../../units.ts";
import type { Digester } from "../chunk-map.ts";
import { DICTIONARY_BYTES_MAX, type RafsCodec } from "./blob-table.ts";
import { DIGEST_BYTES } from "./chunk-table.ts";
import { invalid, unsupported } from "./fields.ts";

/** How a blob joins chunks to units: not at all, compressed together, or by places in a gzip. */
export type Joining = "none" | "batch" | "zran";

const SIZE_MASK = 0xffffff;
export const CHUNK_COMPRESSED = 0x1000000;
/** A chunk table says what its digest is. */
export const CHUNK_TRUSTED = 0x2000000;
export const NO_UNIT = 0xffffffff;

export const UNIT_DECODED_BYTES_MAX = 16 * MIB;
/** More cannot decode to 16 MiB, but for a stream of empty blocks made to hurt. */
export const UNIT_STORED_BYTES_MAX = 2 * UNIT_DECODED_BYTES_MAX;

export interface ChunkColumns {
  readonly count: number;
  /** Of the chunk itself; of a batch's member its batch's. */
  readonly storedOffset: Float64Array;
  readonly storedBytes: Uint32Array;
  readonly deviceBlock: Uint32Array;
  /** Size - 1 in the low 24 bits, then CHUNK_ bits. */
  readonly sizeAndFlags: Uint32Array;
  /** All zeros unless trusted. */
  readonly digest: Uint8Array;
  /** Number of the chunk's unit, or NO_UNIT; empty when the blob joins none. */
  readonly unit: Uint32Array;
  /** Where it begins in its unit's decoded bytes; empty when the blob joins none. */
  readonly from: Uint32Array;
}

/** Batches or zran slices. */
export interface UnitColumns {
  readonly count: number;
  readonly storedOffset: Float64Array;
  /** In `dictionaries`. */
  readonly dictionaryOffset: Float64Array;
  readonly storedBytes: Uint32Array;
  readonly decodedBytes: Uint32Array;
  readonly dictionaryBytes: Uint32Array;
  /** The byte before the unit in the low 8 bits, then how many of its top bits belong to it. */
  readonly prime: Uint32Array;
  /** Its first chunk. */
  readonly firstChunk: Uint32Array;
  readonly dictionaries: Uint8Array;
}

export interface ColumnCounts {
  readonly chunks: number;
  readonly units: number;
  readonly joining: Joining;
}

export function makeChunkColumns({ chunks, joining }: ColumnCounts): ChunkColumns {
  const joined = joining === "none" ? 0 : chunks;
  return {
    count: chunks,
    storedOffset: new Float64Array(chunks),
    storedBytes: new Uint32Array(chunks),
    deviceBlock: new Uint32Array(chunks),
    sizeAndFlags: new Uint32Array(chunks),
    digest: new Uint8Array(chunks * DIGEST_BYTES),
    unit: new Uint32Array(joined),
    from: new Uint32Array(joined),
  };
}

export function makeUnitColumns({ units }: ColumnCounts, dictionaries: Uint8Array): UnitColumns {
  return {
    count: units,
    storedOffset: new Float64Array(units),
    dictionaryOffset: new Float64Array(units),
    storedBytes: new Uint32Array(units),
    decodedBytes: new Uint32Array(units),
    dictionaryBytes: new Uint32Array(units),
    prime: new Uint32Array(units),
    firstChunk: new Uint32Array(units),
    dictionaries,
  };
}

export function sizeOf(chunks: ChunkColumns, index: number): number {
  return ((chunks.sizeAndFlags[index] ?? 0) & SIZE_MASK) + 1;
}

export function unitOf(chunks: ChunkColumns, index: number): number {
  return chunks.unit[index] ?? NO_UNIT;
}

/** All there is to a chunk map: columns, and what they are checked against. */
export interface CheckedColumns {
  readonly blobId: string;
  readonly codec: RafsCodec;
  readonly digester: Digester;
  readonly joining: Joining;
  readonly chunks: ChunkColumns;
  readonly units: UnitColumns;
  readonly chunkBytes: number;
  readonly sizeBytes: number;
  readonly dataEnd: number;
}

/** Checks columns from the first chunk on, as far as they are filled. Faults: image_invalid. */
export class ColumnCheck {
  readonly #of: CheckedColumns;
  readonly #where: string;
  #next = 0;
  #nextBlock = 0;
  #storedOffset = 0;
  /** The last unit there was; it is left when an ordinary chunk has followed it. */
  #unit = -1;
  #isLeft = false;

  constructor(of: CheckedColumns, where: string) {
    this.#of = of;
    this.#where = where;
  }

  /** Checks the chunks before `end`. */
  advance(end: number): void {
    const { chunks, chunkBytes, joining } = this.#of;
    for (let index = this.#next; index < end; index += 1) {
      const size = sizeOf(chunks, index);
      if (chunks.deviceBlock[index] !== this.#nextBlock) {
        throw this.#fault(index, "does not begin where the one before it ends");
      }
      this.#nextBlock += Math.ceil(size / BLOCK_BYTES);
      if (size > chunkBytes) throw this.#fault(index, `has ${size} bytes, over ${chunkBytes}`);
      const storedOffset = chunks.storedOffset[index] ?? 0;
      if (!(storedOffset >= this.#storedOffset && Number.isSafeInteger(storedOffset))) {
        throw this.#fault(index, "is stored before the one before it");
      }
      this.#storedOffset = storedOffset;
      if (joining === "none" || chunks.unit[index] === NO_UNIT) this.#checkOrdinary(index, size);
      else this.#checkMember(index, size);
    }
    this.#next = end;
  }

  finish(): void {
    const { chunks, sizeBytes } = this.#of;
    this.advance(chunks.count);
    if (this.#nextBlock * BLOCK_BYTES !== sizeBytes) {
      const end = this.#nextBlock * BLOCK_BYTES;
      throw this.#fault(chunks.count - 1, `ends at byte ${end}, its device at ${sizeBytes}`);
    }
  }

  #checkOrdinary(index: number, size: number): void {
    const { chunks, dataEnd } = this.#of;
    const storedBytes = chunks.storedBytes[index] ?? 0;
    const isCompressed = ((chunks.sizeAndFlags[index] ?? 0) & CHUNK_COMPRESSED) !== 0;
    if (storedBytes === 0 || (!isCompressed && storedBytes !== size)) {
      throw this.#fault(index, `has ${storedBytes} stored bytes for ${size}`);
    }
    if (storedBytes > UNIT_DECODED_BYTES_MAX || this.#storedOffset + storedBytes > dataEnd) {
      throw this.#fault(index, "is stored outside the blob's data");
    }
    if (isCompressed) this.#checkCodec(index);
    this.#isLeft = true;
  }

  /** What is compressed must be so in a way that the format defines. */
  #checkCodec(index: number): void {
    const { blobId, codec } = this.#of;
    if (codec === "none") throw this.#fault(index, "is compressed in a blob without a codec");
    if (codec === "gzip") {
      const what = `chunk ${index} of blob ${blobId}`;
      throw unsupported(this.#where, `${what} is a gzip of its own, outside any zran slice`);
    }
  }

  #checkMember(index: number, size: number): void {
    const { chunks, units, joining } = this.#of;
    const unit = chunks.unit[index] ?? 0;
    if (unit !== this.#unit || this.#isLeft) this.#enterUnit(index, unit);
    const end = (chunks.from[index] ?? 0) + size;
    if (end > (units.decodedBytes[unit] ?? 0)) {
      throw this.#fault(index, `ends behind its unit ${unit}`);
    }
    if (joining === "batch" && this.#storedOffset !== units.storedOffset[unit]) {
      throw this.#fault(index, `is not stored where its batch ${unit} is`);
    }
  }

  #enterUnit(index: number, unit: number): void {
    const { units, dataEnd, joining } = this.#of;
    if (unit <= this.#unit) throw this.#fault(index, `goes back to unit ${unit}`);
    if (unit >= units.count) throw this.#fault(index, `is in unit ${unit} of ${units.count}`);
    const storedOffset = units.storedOffset[unit] ?? 0;
    const storedBytes = units.storedBytes[unit] ?? 0;
    const decodedBytes = units.decodedBytes[unit] ?? 0;
    if (decodedBytes > UNIT_DECODED_BYTES_MAX || storedBytes > UNIT_STORED_BYTES_MAX) {
      throw this.#fault(index, `is in unit ${unit} of ${storedBytes} and ${decodedBytes} bytes`);
    }
    const isStored = Number.isSafeInteger(storedOffset) && storedOffset >= 0 && storedBytes > 0;
    if (!isStored || storedOffset + storedBytes > dataEnd) {
      throw this.#fault(index, `is in unit ${unit}, outside the blob's data`);
    }
    const previous = this.#unit === -1 ? 0 : (units.storedOffset[this.#unit] ?? 0);
    if (storedOffset < previous) throw this.#fault(index, `is in unit ${unit}, stored too early`);
    if (units.firstChunk[unit] !== index) throw this.#fault(index, `is not first in unit ${unit}`);
    if (joining === "zran") this.#checkStart(index, unit);
    else if (storedBytes !== decodedBytes) this.#checkCodec(index);
    this.#unit = unit;
    this.#isLeft = false;
  }

  #checkStart(index: number, unit: number): void {
    const { units } = this.#of;
    const offset = units.dictionaryOffset[unit] ?? 0;
    const bytes = units.dictionaryBytes[unit] ?? 0;
    const isWithin = offset >= 0 && offset + bytes <= units.dictionaries.length;
    if (bytes > DICTIONARY_BYTES_MAX || (bytes > 0 && !isWithin)) {
      throw this.#fault(index, `is in unit ${unit}, whose dictionary is not there`);
    }
    const bits = (units.prime[unit] ?? 0) >>> 8;
    if (bits > 7) throw this.#fault(index, `is in unit ${unit}, which begins ${bits} bits early`);
  }

  #fault(index: number, detail: string): Error {
    return invalid(this.#where, `chunk ${index} of blob ${this.#of.blobId} ${detail}`);
  }
}
