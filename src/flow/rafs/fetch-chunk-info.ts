// SPDX-License-Identifier: Apache-2.0
// Gets a blob's chunk infos: from the `.blob.meta` file that came with the bootstrap, else by
// range from the blob that holds them. What they say is checked against the bootstrap's rows by
// whoever builds the map; here it is checked that they are what the blob's entry says.
//
// Verified by a digest the bootstrap vouches for: the file (by its layer's digest) and the meta
// blob of a zran image (whole). A range of an ordinary blob has only the digest in the blob's own
// table of contents, which shows damage, not forgery; a forged one cannot lead to wrong bytes,
// since the rows say where on the device each chunk lies and what its digest is.

import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import type { Native } from "../../platform/native.ts";
import { DaemonError } from "../../errors.ts";
import { type RafsBlob, checkMetaBlobSize, chunkInfoExtent } from "../../image/rafs/blob-table.ts";
import {
  CHUNK_INFO_HEADER_BYTES,
  parseChunkInfoHeader,
  splitBlobMeta,
} from "../../image/rafs/chunk-info.ts";
import {
  type CheckedSections,
  TOC_TAIL_BYTES,
  checkSections,
  parseTableOfContents,
} from "../../image/rafs/toc.ts";
import type { BlobLocation, FetchOptions, Source } from "../../source/source.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../../units.ts";

/** Decoded chunk infos (with contexts and dictionaries) and their header. */
export interface ChunkInfo {
  readonly info: Uint8Array;
  readonly header: Uint8Array;
}

export interface ChunkInfoParts {
  readonly source: Source;
  readonly native: Pick<Native, "decode">;
}

/** Undefined when the file has only the header. Faults: image_invalid. */
export async function readBlobMeta(
  path: string,
  blob: RafsBlob,
  where: string,
): Promise<ChunkInfo | undefined> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const sizeMax = alignUp(blob.chunkInfo.bytes, BLOCK_BYTES) + CHUNK_INFO_HEADER_BYTES;
    if (size > sizeMax) {
      const detail = `${path} has ${size} bytes, more than the ${sizeMax} of blob ${blob.id}`;
      throw new DaemonError({ code: "image_invalid", where, detail });
    }
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafeSlow(size), 0, size, 0);
    const bytes = new Uint8Array(buffer.buffer, buffer.byteOffset, bytesRead);
    const { chunkInfo, header } = splitBlobMeta(bytes, blob, `${where} (${path})`);
    parseChunkInfoHeader(header, blob, where);
    return chunkInfo === undefined ? undefined : { info: chunkInfo, header };
  } finally {
    await file.close();
  }
}

/** `location` is the blob that holds the infos. Faults: image_invalid, digest_mismatch, the source's. */
export async function fetchChunkInfo(
  parts: ChunkInfoParts,
  blob: RafsBlob,
  location: BlobLocation,
  options: FetchOptions & { readonly where: string },
): Promise<ChunkInfo> {
  const { where } = options;
  if (blob.features.separate) return fetchMetaBlob(parts, blob, location, options);
  const place = chunkInfoExtent(blob);
  const [bytes, sections] = await Promise.all([
    fetchRange(parts.source, location, place, options),
    fetchContents(parts.source, blob, location, options),
  ]);
  const split = blob.chunkInfo.storedBytes;
  const header = bytes.subarray(split);
  parseChunkInfoHeader(header, blob, where);
  const info = await decodeInfo(parts.native, blob, bytes.subarray(0, split), where);
  if (sections !== undefined) {
    checkSection(sections.meta.sha256, info, { blob, name: "blob.meta", where });
    checkSection(sections.header.sha256, header, { blob, name: "blob.meta.header", where });
  }
  return { info, header };
}

/** A zran image's infos have a blob of their own, whose digest the bootstrap has. */
async function fetchMetaBlob(
  parts: ChunkInfoParts,
  blob: RafsBlob,
  location: BlobLocation,
  options: FetchOptions & { readonly where: string },
): Promise<ChunkInfo> {
  const { where } = options;
  checkMetaBlobSize(blob, where);
  const whole = await fetchRange(
    parts.source,
    location,
    { offset: 0, length: blob.metaBytes },
    options,
  );
  const actual = `sha256:${createHash("sha256").update(whole).digest("hex")}`;
  const expected = location.digest;
  if (actual !== expected) {
    throw new DaemonError({ code: "digest_mismatch", where, expected, actual });
  }
  const { offset, length } = chunkInfoExtent(blob);
  const place = whole.subarray(offset, offset + length);
  const header = place.subarray(blob.chunkInfo.storedBytes);
  parseChunkInfoHeader(header, blob, where);
  const stored = place.subarray(0, blob.chunkInfo.storedBytes);
  return { info: await decodeInfo(parts.native, blob, stored, where), header };
}

async function decodeInfo(
  native: Pick<Native, "decode">,
  { id, chunkInfo }: RafsBlob,
  stored: Uint8Array,
  where: string,
): Promise<Uint8Array> {
  if (chunkInfo.codec === "none") return stored;
  const target = new Uint8Array(alignUp(chunkInfo.bytes, BLOCK_BYTES));
  const { codec, bytes } = chunkInfo;
  try {
    await native.decode({
      codec,
      source: stored,
      sourceOffset: 0,
      sourceLength: stored.length,
      decodedBytes: bytes,
      target,
      pieces: Uint32Array.of(0, bytes, 0),
    });
  } catch (error) {
    const detail = `the chunk infos of blob ${id} are not ${codec} data of ${bytes} bytes`;
    throw new DaemonError({ code: "image_invalid", where, detail }, { cause: error });
  }
  return target.subarray(0, bytes);
}

/** Undefined for a blob without a table of contents. */
async function fetchContents(
  source: Source,
  blob: RafsBlob,
  location: BlobLocation,
  options: FetchOptions & { readonly where: string },
): Promise<CheckedSections | undefined> {
  if (!blob.features.toc) return undefined;
  const { where } = options;
  const size = location.size ?? (await source.blobSize(location, options));
  const length = Math.min(size, TOC_TAIL_BYTES);
  const tail = await fetchRange(source, location, { offset: size - length, length }, options);
  return checkSections(parseTableOfContents(tail, size, where), blob, where);
}

function checkSection(
  expected: Uint8Array,
  bytes: Uint8Array,
  { blob, name, where }: { blob: RafsBlob; name: string; where: string },
): void {
  const actual = createHash("sha256").update(bytes).digest();
  if (actual.equals(expected)) return;
  throw new DaemonError({
    code: "digest_mismatch",
    where: `${where}, ${name} of blob ${blob.id}`,
    expected: Buffer.from(expected).toString("hex"),
    actual: actual.toString("hex"),
  });
}

async function fetchRange(
  source: Source,
  location: BlobLocation,
  extent: Extent,
  options: FetchOptions,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(extent.length);
  let at = 0;
  const take = (piece: Uint8Array): void => {
    bytes.set(piece, at);
    at += piece.length;
  };
  await source.readRange(location, extent, take, options);
  return bytes;
}
