// SPDX-License-Identifier: Apache-2.0
// Chunk infos, headers and chunk tables made to measure, for shapes that no fixture has. Written
// from the format's description, not from the parsers.

import { type RafsBlob, type RafsCodec } from "../../src/image/rafs/blob-table.ts";
import { parseFeatures } from "../../src/image/rafs/blob-features.ts";
import type { RafsBootstrap } from "../../src/image/rafs/bootstrap.ts";
import type { ChunkMapSource } from "../../src/image/rafs/build-chunk-map.ts";
import { type BlobRows, ChunkTableReader } from "../../src/image/rafs/chunk-table.ts";
import { alignUp } from "../../src/units.ts";

const MAGIC = 0xb10bb10b;
const ROW_BYTES = 80;
const CONTEXT_BYTES = 40;
const MIB = 1024 * 1024;

export interface MadeChunk {
  readonly size: number;
  readonly storedOffset: number;
  readonly storedBytes: number;
  readonly isCompressed?: boolean;
  /** Of a batch or zran slice; undefined for an ordinary chunk. */
  readonly unit?: number;
  readonly from?: number;
  /** False: the chunk table has no row for it. */
  readonly isReferenced?: boolean;
  /** Where it begins, if not behind the one before it. */
  readonly deviceOffset?: number;
}

export interface MadeUnit {
  readonly storedOffset?: number;
  readonly storedBytes: number;
  readonly decodedBytes: number;
  readonly dictionaryOffset?: number;
  readonly dictionaryBytes?: number;
  readonly byte?: number;
  readonly bits?: number;
}

export interface MadeBlobOptions {
  readonly chunks: readonly MadeChunk[];
  readonly joining?: "none" | "batch" | "zran";
  readonly version?: 1 | 2;
  readonly codec?: RafsCodec;
  readonly units?: readonly MadeUnit[];
  readonly dictionaries?: Uint8Array;
  readonly dataEnd?: number;
  readonly sizeBytes?: number;
  /** The order of the chunk table's rows. */
  readonly order?: (rows: number[]) => void;
  /** Changes the digest of every chunk. */
  readonly salt?: number;
}

export interface MadeBlob extends ChunkMapSource {
  readonly bootstrap: RafsBootstrap;
  readonly table: Uint8Array;
}

export const MADE_ID = "ab".repeat(32);

export function makeBlob(options: MadeBlobOptions): MadeBlob {
  const { chunks, joining = "none", version = joining === "none" ? 1 : 2 } = options;
  const places: number[] = [];
  let end = 0;
  for (const chunk of chunks) {
    const start = chunk.deviceOffset ?? end;
    places.push(start);
    end = alignUp(start + chunk.size, 4096);
  }
  const infos = version === 1 ? infosV1(chunks, places) : infosV2(chunks, places, joining);
  const contexts = contextsOf(options);
  const ci = new Uint8Array(infos.length + contexts.length);
  ci.set(infos);
  ci.set(contexts, infos.length);
  const blob = blobOf(options, {
    version,
    sizeBytes: options.sizeBytes ?? end,
    ciBytes: ci.length,
  });
  const header = headerOf(blob, { infoBytes: infos.length, contexts, units: options.units ?? [] });
  const table = tableOf(options, places);
  const bootstrap = bootstrapOf(blob, table.length);
  return {
    blob,
    bootstrap,
    ci,
    header,
    table,
    rows: rowsOf(bootstrap, blob, table),
    where: "made",
  };
}

export function rowsOf(bootstrap: RafsBootstrap, blob: RafsBlob, table: Uint8Array): BlobRows {
  const reader = new ChunkTableReader(bootstrap, [blob], "made");
  reader.push(table);
  const [rows] = reader.finish();
  if (rows === undefined) throw new Error("one blob has its rows");
  return rows;
}

function infosV1(chunks: readonly MadeChunk[], places: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(chunks.length * 16));
  chunks.forEach((chunk, index) => {
    const size = BigInt(chunk.size - 1);
    const stored = BigInt(chunk.storedBytes - 1);
    const w0 = ((size & 0xfffffn) << 44n) | BigInt(places[index] ?? 0) | ((size >> 20n) << 8n);
    const place = BigInt(chunk.storedOffset) | ((stored >> 20n) << 40n);
    view.setBigUint64(index * 16, w0, true);
    view.setBigUint64(index * 16 + 8, place | ((stored & 0xfffffn) << 44n), true);
  });
  return new Uint8Array(view.buffer);
}

function infosV2(
  chunks: readonly MadeChunk[],
  places: readonly number[],
  joining: string,
): Uint8Array {
  const view = new DataView(new ArrayBuffer(chunks.length * 24));
  const member = joining === "zran" ? 2 : 4;
  chunks.forEach((chunk, index) => {
    const flags = (chunk.unit === undefined ? 0 : member) | (chunk.isCompressed === true ? 1 : 0);
    const at = index * 24;
    view.setUint32(at, (places[index] ?? 0) / 4096, true);
    view.setUint32(at + 4, (chunk.size - 1) | (flags << 24), true);
    const place = BigInt(chunk.storedOffset) | (BigInt(chunk.storedBytes) << 40n);
    view.setBigUint64(at + 8, place, true);
    view.setUint32(at + 16, chunk.from ?? 0, true);
    view.setUint32(at + 20, chunk.unit ?? 0, true);
  });
  return new Uint8Array(view.buffer);
}

function contextsOf({ units = [], joining, dictionaries }: MadeBlobOptions): Uint8Array {
  const contextBytes = units.length * CONTEXT_BYTES;
  const bytes = new Uint8Array(contextBytes + (dictionaries?.length ?? 0));
  const view = new DataView(bytes.buffer);
  units.forEach((unit, index) => {
    const at = index * CONTEXT_BYTES;
    if (joining === "batch") {
      view.setUint32(at, unit.storedBytes, true);
      view.setUint32(at + 4, unit.decodedBytes, true);
      return;
    }
    view.setBigUint64(at, BigInt(unit.storedOffset ?? 0), true);
    view.setBigUint64(at + 16, BigInt(unit.dictionaryOffset ?? 0), true);
    view.setUint32(at + 24, unit.storedBytes, true);
    view.setUint32(at + 28, unit.decodedBytes, true);
    view.setUint32(at + 32, unit.dictionaryBytes ?? 0, true);
    view.setUint8(at + 36, unit.byte ?? 0);
    view.setUint8(at + 37, unit.bits ?? 0);
  });
  if (dictionaries !== undefined) bytes.set(dictionaries, contextBytes);
  return bytes;
}

function blobOf(
  { joining, chunks, codec = joining === "zran" ? "gzip" : "zstd", dataEnd }: MadeBlobOptions,
  made: { readonly version: 1 | 2; readonly sizeBytes: number; readonly ciBytes: number },
): RafsBlob {
  const kind = joining === "zran" ? 0x18 : joining === "batch" ? 0x80 : 0;
  const bits = 1 | kind | (made.version === 2 ? 4 : 0);
  const last = chunks.at(-1) ?? { storedOffset: 0, storedBytes: 0 };
  return {
    index: 0,
    id: MADE_ID,
    chunkBytes: 16 * MIB,
    chunkCount: chunks.length,
    codec,
    digester: "sha256",
    features: parseFeatures(bits, "a made blob", "made"),
    compressedSizeBytes: 0,
    sizeBytes: made.sizeBytes,
    chunkInfo: { codec: "none", offset: 0, storedBytes: made.ciBytes, bytes: made.ciBytes },
    tocDigest: undefined,
    tocBytes: 0,
    metaDigest: undefined,
    metaBytes: 0,
    dataEnd: dataEnd ?? last.storedOffset + last.storedBytes + 32 * MIB,
  };
}

function headerOf(
  blob: RafsBlob,
  of: { infoBytes: number; contexts: Uint8Array; units: readonly MadeUnit[] },
): Uint8Array {
  const bytes = new Uint8Array(4096);
  const view = new DataView(bytes.buffer);
  const { chunkInfo } = blob;
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, blob.features.bits, true);
  view.setUint32(12, blob.chunkCount, true);
  view.setBigUint64(16, BigInt(chunkInfo.offset), true);
  view.setBigUint64(24, BigInt(chunkInfo.storedBytes), true);
  view.setBigUint64(32, BigInt(chunkInfo.bytes), true);
  view.setBigUint64(40, BigInt(of.infoBytes), true);
  view.setBigUint64(48, BigInt(of.contexts.length), true);
  view.setUint32(56, of.units.length, true);
  view.setUint32(4092, MAGIC, true);
  return bytes;
}

/** The digest of a made chunk: no bytes have it. */
export function madeDigest(index: number, salt = 0): Uint8Array {
  const bytes = new Uint8Array(32).fill(salt);
  new DataView(bytes.buffer).setUint32(0, index + 1, true);
  return bytes;
}

function tableOf(options: MadeBlobOptions, places: readonly number[]): Uint8Array {
  const { chunks, joining, salt = 0, version = joining === undefined ? 1 : 2 } = options;
  const order = [...chunks.keys()].filter((index) => chunks[index]?.isReferenced !== false);
  options.order?.(order);
  const bytes = new Uint8Array(order.length * ROW_BYTES);
  const view = new DataView(bytes.buffer);
  order.forEach((index, row) => {
    const chunk = chunks[index];
    if (chunk === undefined) return;
    const at = row * ROW_BYTES;
    const isBatched = joining === "batch" && chunk.unit !== undefined;
    const isCompressed =
      version === 1 ? chunk.storedBytes !== chunk.size : chunk.isCompressed === true;
    bytes.set(madeDigest(index, salt), at);
    view.setUint32(at + 36, isCompressed && !isBatched ? 1 : 0, true);
    view.setUint32(at + 40, isBatched ? 0 : chunk.storedBytes, true);
    view.setUint32(at + 44, chunk.size, true);
    view.setBigUint64(at + 48, BigInt(isBatched ? 0 : chunk.storedOffset), true);
    view.setBigUint64(at + 56, BigInt(places[index] ?? 0), true);
    view.setUint32(at + 72, index, true);
  });
  return bytes;
}

function bootstrapOf(blob: RafsBlob, tableBytes: number): RafsBootstrap {
  const nothing = { offset: 0, length: 0 };
  return {
    sizeBytes: tableBytes,
    chunkBytes: blob.chunkBytes,
    flags: 0,
    hasXattrs: false,
    hasBlobDigests: false,
    blobTable: nothing,
    chunkTable: { offset: 0, length: tableBytes },
    prefetchTable: nothing,
    rootNid: 0,
    inodeCount: 0,
    metaBlock: 0,
    deviceTags: [blob.id],
    deviceBlocks: [blob.sizeBytes / 4096],
  };
}
