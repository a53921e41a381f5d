// SPDX-License-Identifier: Apache-2.0
// From a blob's decoded chunk infos and the chunk table's rows to its chunk map. The rows are
// trusted (the manifest covers them), the chunk infos may come from anywhere: where both speak of
// a chunk they must say the same. In slices, because a large blob has a million chunks.
// Source: nydus 2.4, storage/src/meta/{chunk_info_v1,chunk_info_v2,batch,zran}.rs.

import { CONTEXT_BYTES, type RafsBlob } from "./blob-table.ts";
import { type ChunkInfoHeader, parseChunkInfoHeader } from "./chunk-info.ts";
import {
  CHUNK_COMPRESSED,
  type CheckedColumns,
  type ChunkColumns,
  ColumnCheck,
  type Joining,
  NO_UNIT,
  type UnitColumns,
  makeChunkColumns,
  makeUnitColumns,
} from "./chunk-columns.ts";
import { RafsChunkMap } from "./chunk-map.ts";
import { type BlobRows, ROW_DEVICE_BLOCK } from "./chunk-table.ts";
import { asHex, invalid, u64At, unsupported, viewOf } from "./fields.ts";
import { contradictionOf, takeDigest } from "./row-check.ts";

const SLICE_CHUNKS = 20_000;
/** So few that their cache lines, and their pages, are still there when they are used. */
const ORDERED_ROWS = 256;

const V2_COMPRESSED = 0x1;
const V2_ZRAN = 0x2;
const V2_BATCH = 0x4;
const V2_ENCRYPTED = 0x8;
const V2_CRC = 0x10;
const V2_KNOWN = V2_COMPRESSED | V2_ZRAN | V2_BATCH | V2_ENCRYPTED | V2_CRC;

export interface ChunkMapSource {
  readonly blob: RafsBlob;
  /** Decoded chunk infos, contexts and dictionaries: exactly blob.chunkInfo.bytes. */
  readonly ci: Uint8Array;
  /** The 4096 bytes behind the stored chunk infos. */
  readonly header: Uint8Array;
  readonly rows: BlobRows;
  readonly where: string;
}

/**
 * Yields every 20,000 chunks, so that the caller can give others their turn. Faults:
 * image_invalid, image_unsupported.
 */
export function* buildChunkMap(source: ChunkMapSource): Generator<void, RafsChunkMap> {
  const { blob, ci, where } = source;
  const header = parseChunkInfoHeader(source.header, blob, where);
  if (ci.length !== blob.chunkInfo.bytes) {
    const detail = `${ci.length} of ${blob.chunkInfo.bytes} bytes`;
    throw invalid(where, `the chunk info of blob ${blob.id} is cut: ${detail}`);
  }
  const parts = emptyParts(source, header);
  const check = new ColumnCheck(parts, where);
  const filler = new ColumnFiller(source, parts);
  for (let end = SLICE_CHUNKS; end < blob.chunkCount; end += SLICE_CHUNKS) {
    filler.advance(end);
    check.advance(end);
    yield;
  }
  filler.advance(blob.chunkCount);
  check.finish();
  filler.finish();
  return new RafsChunkMap(parts);
}

function emptyParts({ blob, ci, where }: ChunkMapSource, header: ChunkInfoHeader): CheckedColumns {
  const { batch, zran } = blob.features;
  const joining: Joining = batch ? "batch" : zran ? "zran" : "none";
  const counts = { chunks: blob.chunkCount, units: header.contextCount, joining };
  const contextsEnd = header.infoBytes + header.contextCount * CONTEXT_BYTES;
  // A copy: the map lives on when the chunk infos are gone.
  const units = makeUnitColumns(counts, ci.slice(contextsEnd));
  const contexts = viewOf(ci.subarray(header.infoBytes, contextsEnd));
  const read = batch ? readBatch : readSlice;
  for (let unit = 0; unit < counts.units; unit += 1) {
    read({ contexts, unit, what: `unit ${unit} of blob ${blob.id}` }, units, where);
  }
  return {
    blobId: blob.id,
    joining,
    codec: blob.codec,
    digester: blob.digester,
    chunkBytes: blob.chunkBytes,
    sizeBytes: blob.sizeBytes,
    dataEnd: blob.dataEnd,
    chunks: makeChunkColumns(counts),
    units,
  };
}

interface ContextAt {
  readonly contexts: DataView;
  readonly unit: number;
  readonly what: string;
}

/** Where a batch is stored its members say. */
function readBatch({ contexts, unit, what }: ContextAt, units: UnitColumns, where: string): void {
  const at = unit * CONTEXT_BYTES;
  units.storedBytes[unit] = contexts.getUint32(at, true);
  units.decodedBytes[unit] = contexts.getUint32(at + 4, true);
  for (let rest = at + 8; rest < at + CONTEXT_BYTES; rest += 4) {
    if (contexts.getUint32(rest, true) !== 0) throw invalid(where, `${what} has reserved bytes`);
  }
  units.firstChunk[unit] = NO_UNIT;
}

function readSlice({ contexts, unit, what }: ContextAt, units: UnitColumns, where: string): void {
  const at = unit * CONTEXT_BYTES;
  units.storedOffset[unit] = u64At(contexts, at, `${what}: its offset`, where);
  units.dictionaryOffset[unit] = u64At(contexts, at + 16, `${what}: its dictionary`, where);
  units.storedBytes[unit] = contexts.getUint32(at + 24, true);
  units.decodedBytes[unit] = contexts.getUint32(at + 28, true);
  units.dictionaryBytes[unit] = contexts.getUint32(at + 32, true);
  units.prime[unit] = contexts.getUint16(at + 36, true);
  units.firstChunk[unit] = NO_UNIT;
}

/** Fills columns from chunk infos, and what rows there are; ColumnCheck says if they are sound. */
class ColumnFiller {
  readonly #source: ChunkMapSource;
  readonly #parts: CheckedColumns;
  readonly #chunks: ChunkColumns;
  readonly #digestWords: Uint32Array;
  readonly #infos: DataView;
  #next = 0;
  #nextRow = 0;

  constructor(source: ChunkMapSource, parts: CheckedColumns) {
    this.#source = source;
    this.#parts = parts;
    this.#chunks = parts.chunks;
    this.#digestWords = new Uint32Array(parts.chunks.digest.buffer);
    this.#infos = viewOf(source.ci);
  }

  /** Fills the chunks before `end`. */
  advance(end: number): void {
    if (this.#source.blob.features.chunkInfoV2) {
      for (let index = this.#next; index < end; index += 1) this.#fillV2(index);
    } else {
      for (let index = this.#next; index < end; index += 1) this.#fillV1(index);
    }
    this.#next = end;
    this.#takeRows(end);
  }

  finish(): void {
    const { blob, rows, where } = this.#source;
    if (this.#nextRow < rows.ciIndex.length) {
      const index = rows.ciIndex[this.#nextRow];
      throw invalid(where, `there is a row for chunk ${index}, which blob ${blob.id} has not`);
    }
  }

  #takeRows(end: number): void {
    const { rows, where } = this.#source;
    for (; this.#nextRow < rows.ciIndex.length; this.#nextRow += 1) {
      const index = rows.ciIndex[this.#nextRow] ?? 0;
      if (index >= end) return;
      if (this.#nextRow % ORDERED_ROWS === 0) this.#checkOrder();
      const one = { words: rows.words, at: rows.at[this.#nextRow] ?? 0, index };
      const field = contradictionOf(this.#parts, one);
      if (field !== undefined) {
        const what = `chunk ${index} of blob ${this.#parts.blobId}`;
        throw invalid(where, `${what}: its row and its chunk info differ about its ${field}`);
      }
      takeDigest(this.#chunks, this.#digestWords, one);
    }
  }

  /**
   * The next rows must follow the device's order. Looking at so many at once also brings them into
   * the processor's cache: they lie in the order of digests, so each is a miss, and a loop that
   * does little else has many misses under way together.
   */
  #checkOrder(): void {
    const { at, words, ciIndex } = this.#source.rows;
    const end = Math.min(at.length, this.#nextRow + ORDERED_ROWS);
    let previous = -1;
    for (let n = this.#nextRow; n < end; n += 1) {
      const block = words[(at[n] ?? 0) + ROW_DEVICE_BLOCK] ?? 0;
      if (block <= previous) {
        throw this.#invalid(ciIndex[n] ?? 0, "has a row that puts it before the one before it");
      }
      previous = block;
    }
  }

  /** 16 bytes: w0 has the device offset and size - 1, w1 the stored offset and stored size - 1. */
  #fillV1(index: number): void {
    const at = index * 16;
    const low0 = this.#infos.getUint32(at, true);
    const high0 = this.#infos.getUint32(at + 4, true);
    const high1 = this.#infos.getUint32(at + 12, true);
    const chunks = this.#chunks;
    const storedBytes = ((high1 >>> 12) | ((high1 & 0xf00) << 12)) + 1;
    const sizeLessOne = (high0 >>> 12) | ((low0 & 0xf00) << 12);
    chunks.storedOffset[index] = this.#infos.getUint32(at + 8, true) + (high1 & 0xff) * 2 ** 32;
    chunks.storedBytes[index] = storedBytes;
    chunks.deviceBlock[index] = (low0 >>> 12) | ((high0 & 0xfff) << 20);
    const isCompressed = storedBytes !== sizeLessOne + 1;
    chunks.sizeAndFlags[index] = sizeLessOne | (isCompressed ? CHUNK_COMPRESSED : 0);
  }

  /** 24 bytes: w0 block, size - 1 and flags, w1 stored offset and size, w2 place in the unit. */
  #fillV2(index: number): void {
    const at = index * 24;
    const high0 = this.#infos.getUint32(at + 4, true);
    const high1 = this.#infos.getUint32(at + 12, true);
    const flags = high0 >>> 24;
    const isCompressed = (flags & V2_COMPRESSED) !== 0;
    const chunks = this.#chunks;
    chunks.deviceBlock[index] = this.#infos.getUint32(at, true);
    chunks.sizeAndFlags[index] = (high0 & 0xffffff) | (isCompressed ? CHUNK_COMPRESSED : 0);
    chunks.storedOffset[index] = this.#infos.getUint32(at + 8, true) + (high1 & 0xff) * 2 ** 32;
    chunks.storedBytes[index] = high1 >>> 8;
    if ((flags & ~V2_KNOWN) !== 0 || (flags & V2_ENCRYPTED) !== 0) {
      const { blob, where } = this.#source;
      const what = (flags & V2_ENCRYPTED) !== 0 ? "is encrypted" : `has flags ${asHex(flags)}`;
      throw unsupported(where, `chunk ${index} of blob ${blob.id} ${what}`);
    }
    if ((flags & (V2_ZRAN | V2_BATCH)) !== 0) this.#fillMember(index, at, flags);
    else if (chunks.unit.length > 0) chunks.unit[index] = NO_UNIT;
  }

  #fillMember(index: number, at: number, flags: number): void {
    const { joining, units } = this.#parts;
    const chunks = this.#chunks;
    const wanted = joining === "zran" ? V2_ZRAN : joining === "batch" ? V2_BATCH : 0;
    if ((flags & (V2_ZRAN | V2_BATCH)) !== wanted) {
      throw this.#invalid(index, `has flags ${asHex(flags)}, which its blob's features exclude`);
    }
    if (joining === "batch" && chunks.storedBytes[index] !== 0) {
      throw this.#invalid(index, "is in a batch, yet has a stored size of its own");
    }
    const unit = this.#infos.getUint32(at + 20, true);
    chunks.from[index] = this.#infos.getUint32(at + 16, true);
    chunks.unit[index] = unit;
    if (unit >= units.count) throw this.#invalid(index, `is in unit ${unit} of ${units.count}`);
    if (units.firstChunk[unit] !== NO_UNIT) return;
    units.firstChunk[unit] = index;
    if (joining === "batch") units.storedOffset[unit] = chunks.storedOffset[index] ?? 0;
  }

  #invalid(index: number, detail: string): Error {
    return invalid(this.#source.where, `chunk ${index} of blob ${this.#parts.blobId} ${detail}`);
  }
}
