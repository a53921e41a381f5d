// SPDX-License-Identifier: Apache-2.0
// Where the metadata of an EROFS image of one file lies: all that the kernel reads of it for
// itself when it mounts the image, walks its tree or finds where a file's bytes are. Rather a few
// bytes too many than one too few.
// Source: fs/erofs/erofs_fs.h, super.c, inode.c, xattr.c, data.c and zmap.c of Linux 6.18.

import { BLOCK_BYTES, type Extent, alignUp } from "../../units.ts";
import { invalid, u64At, viewOf } from "../rafs/fields.ts";
import type { Feature } from "./features.ts";
import {
  type ErofsReader,
  type Inode,
  LAYOUT_CHUNKS,
  LAYOUT_COMPRESSED,
  LAYOUT_COMPRESSED_COMPACT,
  LAYOUT_INLINE,
} from "./inode.ts";
import { SUPERBLOCK_HEAD_BYTES, type Superblock } from "./superblock.ts";
import { inodesUnder } from "./tree.ts";

/** Features of which it is known what metadata they add. */
const KNOWN_FEATURES = 0x3f;

const SUPERBLOCK_OFFSET = 1024;
const ROOT_NID = 14;
const META_BLOCK = 40;
const XATTR_BLOCK = 44;
const PACKED_NID = 96;
const FRAGMENTS = 0x20;

const CHUNK_BITS = 0x1f;
const CHUNK_INDEXES = 0x20;
/** Of compressed files: a header (8), 8 more before full indexes, at most 8 a block of the file. */
const MAP_HEAD_BYTES = 16;
const MAP_INDEX_BYTES = 8;
/** Of the tail of a compressed file that lies behind its indexes. */
const INLINE_TAIL_BYTES = BLOCK_BYTES;
const XATTR_HEADER_BYTES = 12;
const XATTR_SHARED_COUNT = 4;
const XATTR_ID_BYTES = 4;
const XATTR_ENTRY_BYTES = 4;
const PADDED = 4;

export interface MetadataPlaces {
  readonly rootNid: number;
  /** Where inodes begin, in blocks. */
  readonly metaBlock: number;
  /** Where shared extended attributes begin, in blocks. */
  readonly xattrBlock: number;
  /** The file that ends of other files are packed into; undefined when there is none. */
  readonly packedNid: number | undefined;
}

/** False when the image has features whose metadata might lie anywhere: take all of it then. */
export function hasKnownMetadata(features: readonly Feature[]): boolean {
  return features.every(({ bit }) => (bit & ~KNOWN_FEATURES) === 0);
}

/** `head` is the image's first 4096 bytes, which parseSuperblock has accepted. Fault: image_invalid. */
export function metadataPlaces(head: Uint8Array, { features }: Superblock, where: string) {
  const view = viewOf(head.subarray(SUPERBLOCK_OFFSET, SUPERBLOCK_HEAD_BYTES));
  const hasPacked = features.some(({ bit }) => bit === FRAGMENTS);
  const packedNid = u64At(view, PACKED_NID, "its packed inode's number", where);
  const places: MetadataPlaces = {
    rootNid: view.getUint16(ROOT_NID, true),
    metaBlock: view.getUint32(META_BLOCK, true),
    xattrBlock: view.getUint32(XATTR_BLOCK, true),
    packedNid: hasPacked && packedNid > 0 ? packedNid : undefined,
  };
  return places;
}

/**
 * What must be there before the image is mounted, beside what `reader` reads for this (directories
 * and inodes); places may come twice, and a little beyond the image's end. Fault: image_invalid.
 */
export async function* metadataExtents(
  reader: ErofsReader,
  places: MetadataPlaces,
  { deviceTable }: Superblock,
): AsyncGenerator<Extent, void> {
  // The superblock's block, and one for what of its compression settings does not fit there.
  yield { offset: 0, length: 2 * BLOCK_BYTES };
  if (deviceTable !== undefined) yield deviceTable;
  for await (const inode of inodesUnder(reader, places.rootNid)) {
    yield* inodeExtents(reader, inode, places);
  }
  if (places.packedNid === undefined) return;
  yield* inodeExtents(reader, await reader.inode(places.packedNid), places);
}

/** An inode, what lies with it (indexes, a tail), and its attributes; as metadataExtents. */
export async function* inodeExtents(
  reader: ErofsReader,
  inode: Inode,
  places: MetadataPlaces,
): AsyncGenerator<Extent, void> {
  yield { offset: inode.at, length: ownEnd(inode) - inode.at };
  if (inode.end > inode.xattrsAt) yield* sharedXattrs(reader, inode, places);
}

/** First byte behind all that lies with an inode. */
function ownEnd({ layout, start, sizeBytes, end }: Inode): number {
  switch (layout) {
    case LAYOUT_INLINE:
      return end + (sizeBytes % BLOCK_BYTES);
    case LAYOUT_CHUNKS: {
      const chunkBytes = BLOCK_BYTES * 2 ** (start & CHUNK_BITS);
      const entryBytes = (start & CHUNK_INDEXES) === 0 ? 4 : 8;
      return alignUp(end, entryBytes) + Math.ceil(sizeBytes / chunkBytes) * entryBytes;
    }
    case LAYOUT_COMPRESSED:
    case LAYOUT_COMPRESSED_COMPACT: {
      const indexes = Math.ceil(sizeBytes / BLOCK_BYTES) * MAP_INDEX_BYTES;
      return alignUp(end, 8) + MAP_HEAD_BYTES + indexes + INLINE_TAIL_BYTES;
    }
    default:
      return end;
  }
}

async function* sharedXattrs(
  reader: ErofsReader,
  { nid, xattrsAt, end }: Inode,
  { xattrBlock }: MetadataPlaces,
): AsyncGenerator<Extent, void> {
  const what = `the attributes of its inode ${nid}`;
  const head = await reader.bytes(xattrsAt, XATTR_HEADER_BYTES, what);
  const count = head[XATTR_SHARED_COUNT] ?? 0;
  if (count === 0) return;
  const idsAt = xattrsAt + XATTR_HEADER_BYTES;
  if (idsAt + count * XATTR_ID_BYTES > end) {
    throw invalid(reader.file.where, `${what} are ${count} shared ones, more than have room`);
  }
  const ids = viewOf(await reader.bytes(idsAt, count * XATTR_ID_BYTES, what));
  for (let n = 0; n < count; n += 1) {
    const offset = xattrBlock * BLOCK_BYTES + ids.getUint32(n * XATTR_ID_BYTES, true) * PADDED;
    const entry = viewOf(await reader.bytes(offset, XATTR_ENTRY_BYTES, what));
    const bytes = XATTR_ENTRY_BYTES + entry.getUint8(0) + entry.getUint16(2, true);
    yield { offset, length: alignUp(bytes, PADDED) };
  }
}
