// SPDX-License-Identifier: Apache-2.0
// The table of contents at the end of a blob layer that nydusify made: which sections lie where
// in it, and the SHA-256 of each. The layer ends with 128-byte entries and a tar header for them.
// Source: nydus 2.4, storage/src/meta/toc.rs.

import { type Extent, extentEnd } from "../../units.ts";
import type { RafsBlob } from "./blob-table.ts";
import { CHUNK_INFO_HEADER_BYTES } from "./chunk-info.ts";
import { DIGEST_BYTES } from "./chunk-table.ts";
import { asHex, invalid, liesWithin, textOf, u64At, unsupported, viewOf } from "./fields.ts";

/** The last bytes of a layer that parseTableOfContents wants: these, or all of a shorter one. */
export const TOC_TAIL_BYTES = 4096;

const TAR_HEADER_BYTES = 512;
const TAR_MAGIC_AT = 257;
const TAR_SIZE_AT = 124;
const TAR_SIZE_BYTES = 12;
const ENTRY_BYTES = 128;
const NAME = "rafs.blob.toc";

/** A third way to number the same codecs: a bit each. */
const CODECS = new Map<number, "none" | "zstd" | "lz4_block">([
  [1, "none"],
  [2, "zstd"],
  [4, "lz4_block"],
]);

export interface TocEntry {
  /** `image.blob`, `blob.meta`, `blob.meta.header`, `blob.digest`, `image.boot`. */
  readonly name: string;
  readonly codec: "none" | "zstd" | "lz4_block";
  /** Of the decoded bytes; that of `image.blob` also covers the tar header behind it. */
  readonly sha256: Uint8Array;
  /** Where it lies in the layer, as stored. */
  readonly stored: Extent;
  /** Of the decoded bytes; for `image.blob` those of its chunks, though its codec says none. */
  readonly sizeBytes: number;
}

export interface TableOfContents {
  readonly entries: ReadonlyMap<string, TocEntry>;
  /** The entries alone: what `RafsBlob.tocDigest` covers for zran blobs. */
  readonly entryBytes: Uint8Array;
  /** The entries and their tar header: what it covers for the others. */
  readonly allBytes: Uint8Array;
}

/**
 * `tail` is the last TOC_TAIL_BYTES of the layer, or all of a shorter one. Faults: image_invalid,
 * image_unsupported.
 */
export function parseTableOfContents(
  tail: Uint8Array,
  layerSizeBytes: number,
  where: string,
): TableOfContents {
  const wanted = Math.min(layerSizeBytes, TOC_TAIL_BYTES);
  if (tail.length !== wanted) {
    throw invalid(where, `its last ${wanted} bytes are cut to ${tail.length}`);
  }
  if (wanted < TAR_HEADER_BYTES) throw invalid(where, "it is too short for a table of contents");
  const entriesEnd = tail.length - TAR_HEADER_BYTES;
  const bytes = parseTarSize(tail.subarray(entriesEnd), where);
  if (bytes === 0 || bytes % ENTRY_BYTES !== 0 || bytes > entriesEnd) {
    throw invalid(where, `its table of contents has ${bytes} bytes, not a few whole entries`);
  }
  const allBytes = tail.subarray(entriesEnd - bytes);
  const sectionsEnd = layerSizeBytes - allBytes.length;
  const entries = new Map<string, TocEntry>();
  for (let at = 0; at < bytes; at += ENTRY_BYTES) {
    const entry = parseEntry(allBytes.subarray(at, at + ENTRY_BYTES), where);
    if (!liesWithin(entry.stored, sectionsEnd)) {
      throw invalid(where, `its table of contents puts ${entry.name} behind its sections`);
    }
    if (entries.has(entry.name)) {
      throw invalid(where, `its table of contents names ${entry.name} twice`);
    }
    entries.set(entry.name, entry);
  }
  return { entries, entryBytes: allBytes.subarray(0, bytes), allBytes };
}

function parseTarSize(header: Uint8Array, where: string): number {
  const magic = textOf(header.subarray(TAR_MAGIC_AT, TAR_MAGIC_AT + 5));
  if (magic !== "ustar" || textOf(header.subarray(0, 100)) !== NAME) {
    throw invalid(where, "it does not end with a table of contents");
  }
  const field = textOf(header.subarray(TAR_SIZE_AT, TAR_SIZE_AT + TAR_SIZE_BYTES)).trim();
  if (!/^[0-7]{1,11}$/.test(field)) {
    throw invalid(where, "the size of its table of contents is no octal number");
  }
  return Number.parseInt(field, 8);
}

function parseEntry(bytes: Uint8Array, where: string): TocEntry {
  const view = viewOf(bytes);
  // A name of 16 characters (`blob.meta.header`) has no NUL behind it.
  const name = textOf(bytes.subarray(8, 24));
  if (!/^[\x21-\x7e]+$/.test(name)) {
    throw invalid(where, "its table of contents has an entry without a proper name");
  }
  const what = `section ${name}`;
  const codec = CODECS.get(view.getUint32(0, true));
  if (codec === undefined) {
    throw unsupported(where, `its ${what} has the flags ${asHex(view.getUint32(0, true))}`);
  }
  const offset = u64At(view, 56, `${what}: its offset`, where);
  const length = u64At(view, 64, `${what}: its stored size`, where);
  const sizeBytes = u64At(view, 72, `${what}: its size`, where);
  return {
    name,
    codec,
    sha256: bytes.subarray(24, 56),
    stored: { offset, length },
    sizeBytes,
  };
}

/** The sections that a blob's chunk map may be checked with, by the digests they have. */
export interface CheckedSections {
  readonly meta: TocEntry;
  readonly header: TocEntry;
  /** 32 bytes a chunk; only blobs with the feature have it. */
  readonly digests: TocEntry | undefined;
}

/** The sections must lie where the blob's entry says. Fault: image_invalid. */
export function checkSections(
  toc: TableOfContents,
  blob: RafsBlob,
  where: string,
): CheckedSections {
  const { chunkInfo } = blob;
  const meta = sectionOf(toc, "blob.meta", where);
  const isPlaced =
    meta.codec === chunkInfo.codec &&
    meta.stored.offset === chunkInfo.offset &&
    meta.stored.length === chunkInfo.storedBytes &&
    meta.sizeBytes === chunkInfo.bytes;
  if (!isPlaced) throw misplaced(meta, where);
  const header = sectionOf(toc, "blob.meta.header", where);
  const isBehind = header.stored.offset === extentEnd(meta.stored);
  if (!isBehind || header.stored.length !== CHUNK_INFO_HEADER_BYTES || header.codec !== "none") {
    throw misplaced(header, where);
  }
  if (!blob.features.hasBlobDigest) return { meta, header, digests: undefined };
  const digests = sectionOf(toc, "blob.digest", where);
  if (digests.codec !== "none" || digests.stored.length !== blob.chunkCount * DIGEST_BYTES) {
    throw misplaced(digests, where);
  }
  return { meta, header, digests };
}

function sectionOf(toc: TableOfContents, name: string, where: string): TocEntry {
  const entry = toc.entries.get(name);
  if (entry === undefined) throw invalid(where, `its table of contents lacks ${name}`);
  return entry;
}

function misplaced({ name }: TocEntry, where: string): Error {
  return invalid(where, `its table of contents has another ${name} than the bootstrap`);
}
