// SPDX-License-Identifier: Apache-2.0
// The blob table of a RAFS v6 bootstrap: 256 bytes a blob, in the order of the device slots. An
// entry says what a blob's chunks are made with and where its chunk infos ("ci") lie.
// Source: nydus 2.4, rafs/src/metadata/layout/v6.rs, RafsV6Blob; storage/src/device.rs.

import { BLOCK_BYTES, type Extent, extentEnd } from "../../units.ts";
import type { Digester } from "../chunk-map.ts";
import { BLOB_ENTRY_BYTES, type RafsBootstrap } from "./bootstrap.ts";
import { type RafsFeatures, parseFeatures } from "./blob-features.ts";
import { asHex, digestHexOf, invalid, textOf, u64At, unsupported, viewOf } from "./fields.ts";

export type RafsCodec = "none" | "lz4_block" | "gzip" | "zstd";

const CODECS: readonly RafsCodec[] = ["none", "lz4_block", "gzip", "zstd"];
/** Not the numbers of the extended superblock's flags: here 0 is blake3. */
const DIGESTERS: readonly Digester[] = ["blake3", "sha256"];

const ID = /^[0-9a-f]{64}$/;
/** What a layer's own bootstrap, inside its blob, has in place of the blob's id. */
const ID_UNKNOWN = "x".repeat(64);

export const CHUNKS_MAX = 2 ** 24;
const STORED_BYTES_MAX = 2 ** 40;
const SIZE_BYTES_MAX = 2 ** 44;
/** 402 MB of chunk infos at most, and room for the dictionaries of 20,000 zran slices. */
const CHUNK_INFO_BYTES_MAX = 2 ** 30;
const TAR_HEADER_BYTES = 512;
export const CONTEXT_BYTES = 40;
/** Of a zran slice: the window of deflate. */
export const DICTIONARY_BYTES_MAX = 32_768;

export interface ChunkInfoPlace {
  readonly codec: Exclude<RafsCodec, "gzip">;
  /** In the blob (separate: in the meta blob); the 4096-byte header follows the stored bytes. */
  readonly offset: number;
  readonly storedBytes: number;
  readonly bytes: number;
}

export interface RafsBlob {
  readonly index: number;
  /** 64 hex digits: the SHA-256 of the blob that holds the data. */
  readonly id: string;
  readonly chunkBytes: number;
  readonly chunkCount: number;
  readonly codec: RafsCodec;
  readonly digester: Digester;
  readonly features: RafsFeatures;
  readonly compressedSizeBytes: number;
  /** Of the device: whole blocks. */
  readonly sizeBytes: number;
  readonly chunkInfo: ChunkInfoPlace;
  /** Hex; of the table of contents (toc.ts says of which bytes). */
  readonly tocDigest: string | undefined;
  readonly tocBytes: number;
  /** Separate: hex digest and size of the registry blob that holds the chunk infos. */
  readonly metaDigest: string | undefined;
  readonly metaBytes: number;
  /** Chunk data lies before this byte of the data blob. */
  readonly dataEnd: number;
}

/** `bytes` is exactly bootstrap.blobTable. Faults: image_invalid, image_unsupported. */
export function parseBlobTable(
  bytes: Uint8Array,
  bootstrap: RafsBootstrap,
  where: string,
): readonly RafsBlob[] {
  const { length } = bootstrap.blobTable;
  if (bytes.length !== length) {
    throw invalid(where, `its blob table is cut: ${bytes.length} of ${length} bytes`);
  }
  const blobs = bootstrap.deviceTags.map((_, index) => {
    const entry = bytes.subarray(index * BLOB_ENTRY_BYTES, (index + 1) * BLOB_ENTRY_BYTES);
    return parseEntry(entry, { bootstrap, index }, where);
  });
  const ids = new Set(blobs.map(({ id }) => id));
  if (ids.size < blobs.length) throw invalid(where, "two entries of its blob table have one id");
  return blobs;
}

interface Place {
  readonly bootstrap: RafsBootstrap;
  readonly index: number;
}

function parseEntry(entry: Uint8Array, place: Place, where: string): RafsBlob {
  const view = viewOf(entry);
  const u32 = (offset: number): number => view.getUint32(offset, true);
  const id = parseId(entry.subarray(0, 64), place, where);
  const what = `blob ${id}`;
  if (u32(64) !== place.index) {
    throw invalid(where, `${what} is number ${place.index} but says it is ${u32(64)}`);
  }
  const features = parseFeatures(u32(84), what, where);
  if (u32(216) !== 0) throw unsupported(where, `${what} is encrypted (cipher ${u32(216)})`);
  const codec = parseCodec(u32(76), what, where);
  if (codec === "gzip" && !features.chunkInfoV2) {
    throw unsupported(where, `${what} is in the legacy stargz format`);
  }
  const digester = DIGESTERS[u32(80)];
  if (digester === undefined) {
    throw unsupported(where, `${what} has the unknown digest algorithm ${u32(80)}`);
  }
  const sizes = parseSizes(view, { ...place, what }, where);
  const compressedSizeBytes = u64At(view, 88, `${what}: its stored size`, where);
  if (compressedSizeBytes > STORED_BYTES_MAX) throw invalid(where, `${what} is over 1 TiB`);
  const chunkInfo = parseChunkInfoPlace(view, what, where);
  const blob = {
    index: place.index,
    id,
    ...sizes,
    codec,
    digester,
    features,
    compressedSizeBytes,
    chunkInfo,
    tocDigest: digestHexOf(entry.subarray(136, 168)),
    tocBytes: u32(104),
    metaDigest: digestHexOf(entry.subarray(168, 200)),
    metaBytes: u64At(view, 200, `${what}: its meta blob's size`, where),
    dataEnd: dataEndOf(features, { compressedSizeBytes, ciOffset: chunkInfo.offset }),
  };
  checkEntry(blob, what, where);
  return blob;
}

function parseId(field: Uint8Array, { bootstrap, index }: Place, where: string): string {
  const id = textOf(field);
  if (id === ID_UNKNOWN) {
    throw unsupported(where, "it is a layer's own bootstrap, whose blob has no id yet (xxxx...)");
  }
  if (!ID.test(id)) throw invalid(where, `the id of blob ${index} is not 64 hex digits`);
  if (bootstrap.deviceTags[index] !== id) {
    throw invalid(where, `device slot ${index} is not tagged with blob ${id}`);
  }
  return id;
}

function parseCodec(value: number, what: string, where: string): RafsCodec {
  const codec = CODECS[value];
  if (codec === undefined) throw unsupported(where, `${what} has the unknown codec ${value}`);
  return codec;
}

function parseSizes(
  view: DataView,
  { bootstrap, index, what }: Place & { readonly what: string },
  where: string,
): Pick<RafsBlob, "chunkBytes" | "chunkCount" | "sizeBytes"> {
  const chunkBytes = view.getUint32(68, true);
  if (chunkBytes !== bootstrap.chunkBytes) {
    throw invalid(where, `${what} has chunks of ${chunkBytes}, not ${bootstrap.chunkBytes} bytes`);
  }
  const sizeBytes = u64At(view, 96, `${what}: its size`, where);
  const blocks = bootstrap.deviceBlocks[index] ?? 0;
  if (sizeBytes === 0 || sizeBytes > SIZE_BYTES_MAX || sizeBytes !== blocks * BLOCK_BYTES) {
    throw invalid(where, `${what} has ${sizeBytes} bytes, its device slot ${blocks} blocks`);
  }
  const chunkCount = view.getUint32(72, true);
  // Each chunk takes at least a block of the device, and at most chunkBytes.
  if (chunkCount > Math.min(CHUNKS_MAX, blocks) || chunkCount * chunkBytes < sizeBytes) {
    throw invalid(where, `${what} cannot have ${chunkCount} chunks in ${blocks} blocks`);
  }
  return { chunkBytes, chunkCount, sizeBytes };
}

function parseChunkInfoPlace(view: DataView, what: string, where: string): ChunkInfoPlace {
  const codec = parseCodec(view.getUint32(108, true), `${what}: its chunk info`, where);
  if (codec === "gzip") throw unsupported(where, `${what} has its chunk info in gzip`);
  const offset = u64At(view, 112, `${what}: its chunk info's offset`, where);
  const storedBytes = u64At(view, 120, `${what}: its chunk info's stored size`, where);
  const bytes = u64At(view, 128, `${what}: its chunk info's size`, where);
  if (bytes > CHUNK_INFO_BYTES_MAX) throw unsupported(where, `${what} has ${bytes} bytes of ci`);
  const isStoredPlain = codec === "none" ? storedBytes === bytes : storedBytes <= bytes;
  if (storedBytes === 0 || !isStoredPlain || offset > STORED_BYTES_MAX) {
    throw invalid(where, `${what} has chunk info of ${storedBytes} stored and ${bytes} bytes`);
  }
  return { codec, offset, storedBytes, bytes };
}

function dataEndOf(
  features: RafsFeatures,
  { compressedSizeBytes, ciOffset }: { compressedSizeBytes: number; ciOffset: number },
): number {
  if (features.separate) return compressedSizeBytes;
  return features.tarHeaders ? ciOffset - TAR_HEADER_BYTES : ciOffset;
}

function checkEntry(blob: RafsBlob, what: string, where: string): void {
  const { features, chunkInfo, chunkCount } = blob;
  if (blob.dataEnd <= 0) throw invalid(where, `${what} has no room for data`);
  if (features.zran && blob.codec !== "gzip") {
    throw invalid(where, `${what} is zran, but its codec is ${blob.codec}`);
  }
  if (features.separate && (blob.metaDigest === undefined || blob.metaBytes === 0)) {
    throw invalid(where, `${what} has its chunk info in another blob, and does not say which`);
  }
  const infos = chunkCount * (features.chunkInfoV2 ? 24 : 16);
  const dictionaryMax = features.zran ? DICTIONARY_BYTES_MAX : 0;
  const hasContexts = features.batch || features.zran;
  // There are no more contexts than chunks.
  const most = infos + (hasContexts ? chunkCount * (CONTEXT_BYTES + dictionaryMax) : 0);
  if (chunkInfo.bytes < infos || chunkInfo.bytes > most) {
    throw invalid(where, `${what} has ${chunkInfo.bytes} bytes of ci for ${chunkCount} chunks`);
  }
}

/** The bytes of the blob (separate: of the meta blob) with the chunk infos and their header. */
export function chunkInfoExtent(blob: RafsBlob): Extent {
  const { offset, storedBytes } = blob.chunkInfo;
  return { offset, length: storedBytes + BLOCK_BYTES };
}

/** The size of the meta blob is known, so what is to be read from it can be checked. */
export function checkMetaBlobSize(blob: RafsBlob, where: string): void {
  const end = extentEnd(chunkInfoExtent(blob));
  if (blob.features.separate && end > blob.metaBytes) {
    throw invalid(where, `blob ${blob.id} has its chunk info behind its meta blob (${asHex(end)})`);
  }
}
