// SPDX-License-Identifier: Apache-2.0
// A chunk map as a file of ours: a header of 128 bytes, then the columns as they lie in memory,
// those of 8-byte numbers first, so that reading it back copies nothing. Numbers are in this
// machine's byte order; the magic tells. A checksum over it is the keeper's business.

import { MIB } from "../../units.ts";
import type { Digester } from "../chunk-map.ts";
import { CHUNKS_MAX, type RafsCodec } from "./blob-table.ts";
import {
  type CheckedColumns,
  type ChunkColumns,
  ColumnCheck,
  type Joining,
  type UnitColumns,
} from "./chunk-columns.ts";
import { DIGEST_BYTES } from "./chunk-table.ts";
import { asHex, invalid } from "./fields.ts";

const MAGIC = 0x706d4352;
const VERSION = 1;
const HEADER_BYTES = 128;
const ID_AT = 64;
const ID_BYTES = 64;
const CHUNK_BYTES_MAX = 16 * MIB;

const JOININGS: readonly Joining[] = ["none", "batch", "zran"];
const CODECS: readonly RafsCodec[] = ["none", "lz4_block", "gzip", "zstd"];
const DIGESTERS: readonly Digester[] = ["blake3", "sha256"];

/** The file in pieces, in order: a header, and views of the map's own columns. */
export function piecesOf(of: CheckedColumns): Uint8Array[] {
  const { chunks, units } = of;
  const f64 = [chunks.storedOffset, units.storedOffset, units.dictionaryOffset];
  const ofChunks = [chunks.storedBytes, chunks.deviceBlock, chunks.sizeAndFlags];
  const ofMembers = [chunks.unit, chunks.from];
  const ofUnits = [units.storedBytes, units.decodedBytes, units.dictionaryBytes];
  const u32 = [...ofChunks, ...ofMembers, ...ofUnits, units.prime, units.firstChunk];
  const columns = [...f64, ...u32, chunks.digest, units.dictionaries];
  return [
    headerOf(of),
    ...columns.map(
      ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength),
    ),
  ];
}

function headerOf(of: CheckedColumns): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const { joining, codec, digester, chunks, units } = of;
  const kinds = [JOININGS.indexOf(joining), CODECS.indexOf(codec), DIGESTERS.indexOf(digester)];
  const counts = [of.chunkBytes, chunks.count, units.count];
  new Uint32Array(bytes.buffer, 0, 8).set([MAGIC, VERSION, ...kinds, ...counts]);
  const sizes = [units.dictionaries.length, of.sizeBytes, of.dataEnd];
  new Float64Array(bytes.buffer, 32, 3).set(sizes);
  bytes.set(Buffer.from(of.blobId, "latin1"), ID_AT);
  return bytes;
}

/** The map's columns as views of `bytes` (copied first when not aligned). Fault: image_invalid. */
export function columnsOf(bytes: Uint8Array, where: string): CheckedColumns {
  if (bytes.length < HEADER_BYTES) throw invalid(where, `it is cut: ${bytes.length} bytes`);
  const aligned = bytes.byteOffset % 8 === 0 ? bytes : Uint8Array.from(bytes);
  const header = parseHeader(aligned, where);
  const joined = header.joining === "none" ? 0 : header.chunkCount;
  const columns = new ColumnReader(aligned, header, where);
  const f64 = (count: number): Float64Array => new Float64Array(...columns.take(count, 8));
  const u32 = (count: number): Uint32Array => new Uint32Array(...columns.take(count, 4));
  const u8 = (count: number): Uint8Array => new Uint8Array(...columns.take(count, 1));
  const { chunkCount, unitCount } = header;
  // In the order of piecesOf.
  const storedOffset = f64(chunkCount);
  const unitF64 = { storedOffset: f64(unitCount), dictionaryOffset: f64(unitCount) };
  const chunks: ChunkColumns = {
    count: chunkCount,
    storedOffset,
    storedBytes: u32(chunkCount),
    deviceBlock: u32(chunkCount),
    sizeAndFlags: u32(chunkCount),
    unit: u32(joined),
    from: u32(joined),
    digest: new Uint8Array(),
  };
  const units: UnitColumns = {
    count: unitCount,
    ...unitF64,
    storedBytes: u32(unitCount),
    decodedBytes: u32(unitCount),
    dictionaryBytes: u32(unitCount),
    prime: u32(unitCount),
    firstChunk: u32(unitCount),
    dictionaries: new Uint8Array(),
  };
  const digest = u8(chunkCount * DIGEST_BYTES);
  const dictionaries = u8(header.dictionaryBytes);
  const whole = { ...header, chunks: { ...chunks, digest }, units: { ...units, dictionaries } };
  new ColumnCheck(whole, where).finish();
  return whole;
}

type Header = Omit<CheckedColumns, "chunks" | "units"> & {
  readonly chunkCount: number;
  readonly unitCount: number;
  readonly dictionaryBytes: number;
};

function parseHeader(bytes: Uint8Array, where: string): Header {
  const [
    magic = 0,
    version,
    joiningAt = -1,
    codecAt = -1,
    digesterAt = -1,
    chunkBytes = 0,
    ...counts
  ] = new Uint32Array(bytes.buffer, bytes.byteOffset, 8);
  if (magic !== MAGIC) throw invalid(where, `it is no chunk map: its magic is ${asHex(magic)}`);
  if (version !== VERSION) throw invalid(where, `it is a chunk map of version ${version}`);
  const [dictionaryBytes = -1, sizeBytes = -1, dataEnd = -1] = new Float64Array(
    bytes.buffer,
    bytes.byteOffset + 32,
    3,
  );
  const [chunkCount = 0, unitCount = 0] = counts;
  const joining = JOININGS[joiningAt];
  const codec = CODECS[codecAt];
  const digester = DIGESTERS[digesterAt];
  const blobId = Buffer.from(bytes.subarray(ID_AT, ID_AT + ID_BYTES)).toString("latin1");
  const isSound =
    chunkCount > 0 &&
    chunkCount <= CHUNKS_MAX &&
    unitCount <= (joining === "none" ? 0 : chunkCount) &&
    chunkBytes <= CHUNK_BYTES_MAX &&
    [dictionaryBytes, sizeBytes, dataEnd].every((n) => Number.isSafeInteger(n) && n >= 0) &&
    /^[0-9a-f]{64}$/.test(blobId);
  if (!isSound || joining === undefined || codec === undefined || digester === undefined) {
    throw invalid(where, "its header is not that of a chunk map");
  }
  const sizes = { chunkBytes, sizeBytes, dataEnd };
  return { blobId, joining, codec, digester, ...sizes, chunkCount, unitCount, dictionaryBytes };
}

/** Where each column lies; the sum must be the file's size before any view is made. */
class ColumnReader {
  readonly #bytes: Uint8Array;
  #next = HEADER_BYTES;

  constructor(bytes: Uint8Array, header: Header, where: string) {
    const perChunk = 8 + 3 * 4 + DIGEST_BYTES + (header.joining === "none" ? 0 : 2 * 4);
    const perUnit = 2 * 8 + 5 * 4;
    const wanted =
      HEADER_BYTES +
      header.chunkCount * perChunk +
      header.unitCount * perUnit +
      header.dictionaryBytes;
    if (bytes.length !== wanted) {
      throw invalid(where, `it has ${bytes.length} bytes, by its header ${wanted}`);
    }
    this.#bytes = bytes;
  }

  /** What a typed array's constructor wants. */
  take(count: number, width: number): [ArrayBufferLike, number, number] {
    const at = this.#bytes.byteOffset + this.#next;
    this.#next += count * width;
    return [this.#bytes.buffer, at, count];
  }
}
