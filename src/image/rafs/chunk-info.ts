// SPDX-License-Identifier: Apache-2.0
// The chunk infos ("ci") of a RAFS blob: an array that says of each chunk where its bytes lie,
// for batch and zran blobs followed by contexts and dictionaries, and a 4096-byte header behind
// it. They come from the blob itself, or uncompressed from a `.blob.meta` file in the bootstrap
// layer. Source: nydus 2.4, storage/src/meta/mod.rs, BlobCompressionContextHeader.

import { BLOCK_BYTES, alignUp } from "../../units.ts";
import { INLINED_BOOTSTRAP_BIT } from "./blob-features.ts";
import { CONTEXT_BYTES, type RafsBlob } from "./blob-table.ts";
import { asHex, invalid, u64At, viewOf } from "./fields.ts";

export const CHUNK_INFO_HEADER_BYTES = BLOCK_BYTES;

const MAGIC = 0xb10bb10b;
const MAGIC_END = CHUNK_INFO_HEADER_BYTES - 4;
const CODEC_NUMBERS = { none: 0, lz4_block: 1, zstd: 3 } as const;

export interface ChunkInfoHeader {
  /** Batch or zran units; 0 for a blob of ordinary chunks. */
  readonly contextCount: number;
  /** Bytes of the decoded chunk infos: infos, then contexts, then dictionaries. */
  readonly infoBytes: number;
  readonly dictionaryBytes: number;
}

export interface BlobMeta {
  /** The decoded chunk infos, contexts and dictionaries; undefined when only the header is there. */
  readonly chunkInfo: Uint8Array | undefined;
  readonly header: Uint8Array;
}

/** `bytes` is the header, which must say what the blob's entry says. Faults: image_invalid. */
export function parseChunkInfoHeader(
  bytes: Uint8Array,
  blob: RafsBlob,
  where: string,
): ChunkInfoHeader {
  const what = `the chunk info header of blob ${blob.id}`;
  if (bytes.length !== CHUNK_INFO_HEADER_BYTES) {
    throw invalid(where, `${what} has ${bytes.length} bytes, not ${CHUNK_INFO_HEADER_BYTES}`);
  }
  const view = viewOf(bytes);
  for (const at of [0, MAGIC_END]) {
    const magic = view.getUint32(at, true);
    if (magic !== MAGIC) throw invalid(where, `${what} has magic ${asHex(magic)} at byte ${at}`);
  }
  const features = view.getUint32(4, true);
  if (((features ^ blob.features.bits) & ~INLINED_BOOTSTRAP_BIT) !== 0) {
    throw invalid(where, `${what} has features ${asHex(features)}, not those of its entry`);
  }
  const { chunkInfo } = blob;
  const u64 = (at: number): number => u64At(view, at, `byte ${at} of ${what}`, where);
  const isSame =
    view.getUint32(8, true) === CODEC_NUMBERS[chunkInfo.codec] &&
    view.getUint32(12, true) === blob.chunkCount &&
    u64(16) === chunkInfo.offset &&
    u64(24) === chunkInfo.storedBytes &&
    u64(32) === chunkInfo.bytes;
  if (!isSame) throw invalid(where, `${what} contradicts the blob's entry in the bootstrap`);
  return parseContexts(view, { blob, what }, where);
}

function parseContexts(
  view: DataView,
  { blob, what }: { readonly blob: RafsBlob; readonly what: string },
  where: string,
): ChunkInfoHeader {
  const infoBytes = blob.chunkCount * (blob.features.chunkInfoV2 ? 24 : 16);
  if (!blob.features.batch && !blob.features.zran) {
    return { contextCount: 0, infoBytes, dictionaryBytes: 0 };
  }
  const offset = u64At(view, 40, `${what}: its contexts' offset`, where);
  const length = u64At(view, 48, `${what}: its contexts' size`, where);
  const contextCount = view.getUint32(56, true);
  const dictionaryBytes = length - contextCount * CONTEXT_BYTES;
  if (offset !== infoBytes || offset + length !== blob.chunkInfo.bytes || dictionaryBytes < 0) {
    throw invalid(where, `${what} has contexts that do not fill its chunk info`);
  }
  if (contextCount > blob.chunkCount || (blob.features.batch && dictionaryBytes > 0)) {
    throw invalid(where, `${what} has ${contextCount} contexts for ${blob.chunkCount} chunks`);
  }
  return { contextCount, infoBytes, dictionaryBytes };
}

/**
 * The parts of a bundled `.blob.meta` file: decoded chunk infos, zeros to a whole block, header;
 * or the header alone. Faults: image_invalid.
 */
export function splitBlobMeta(bytes: Uint8Array, blob: RafsBlob, where: string): BlobMeta {
  const padded = alignUp(blob.chunkInfo.bytes, BLOCK_BYTES);
  const header = bytes.subarray(Math.max(0, bytes.length - CHUNK_INFO_HEADER_BYTES));
  if (bytes.length === CHUNK_INFO_HEADER_BYTES) return { chunkInfo: undefined, header };
  if (bytes.length !== padded + CHUNK_INFO_HEADER_BYTES) {
    const wanted = padded + CHUNK_INFO_HEADER_BYTES;
    throw invalid(where, `it has ${bytes.length} bytes, not ${wanted} or the header alone`);
  }
  if (bytes.subarray(blob.chunkInfo.bytes, padded).some((byte) => byte !== 0)) {
    throw invalid(where, "it has bytes other than zero between chunk info and header");
  }
  return { chunkInfo: bytes.subarray(0, blob.chunkInfo.bytes), header };
}
