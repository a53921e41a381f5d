// SPDX-License-Identifier: Apache-2.0
// Where the stored bytes of a compressed EROFS file lie: its physical clusters, found in its compact
// or full indexes, one of which there is for each cluster of the file's own bytes. What it takes to
// say whose bytes are read and to fetch them, not to decompress them. Images of 48-bit extents are
// left out.
// Source: fs/erofs/erofs_fs.h and zmap.c of Linux 6.12.

import { BLOCK_BYTES, type Extent, alignDown, alignUp } from "../../units.ts";
import { invalid, liesWithin, viewOf } from "../rafs/fields.ts";
import {
  type DeviceExtent,
  type ErofsReader,
  type Inode,
  LAYOUT_COMPRESSED,
  LAYOUT_COMPRESSED_COMPACT,
  extentsOf,
  merged,
} from "./inode.ts";

/** What ends of files, and small files, are packed into. */
export const PACKED_PATH = "(ends of files, packed)";

const HEADER_BYTES = 8;
const HEADER_ADVISE = 4;
const HEADER_CLUSTER_BITS = 7;
/** Of full indexes with this flag something else follows: extents of 48-bit images. */
const ADVISE_EXTENTS = 0x1;
const ADVISE_2_BYTES = 0x1;
const ADVISE_BIG_1 = 0x2;
const ADVISE_BIG_2 = 0x4;
const ADVISE_INLINE_TAIL = 0x8;
const ADVISE_FRAGMENT = 0x20;
const CLUSTER_BITS = 0x7;
const ALL_IS_FRAGMENT = 0x80;
const ALL_IS_FRAGMENT_BIT = 2n ** 63n;
const BLOCK_BITS = 12;
const COMPACT_CLUSTER_BITS_MAX = 14;

const PLAIN = 0;
const HEAD_1 = 1;
const NONHEAD = 2;
const TYPE = 0x3;
/** Of the first NONHEAD: its number is not a distance, but how many blocks are stored. */
const IS_COUNT = 0x800;

const FULL_RESERVED_BYTES = 8;
const FULL_BYTES = 8;
const PACK_BASE_BYTES = 4;
const PACK_4 = { entries: 2, bytes: 8 } as const;
const PACK_2 = { entries: 16, bytes: 32 } as const;

/** What one cluster of the file's bytes is: the head of a stored one, or the going on of one. */
interface Cluster {
  readonly type: number;
  /** Of a head: where the bytes that it stands for begin, counted from the cluster's own beginning. */
  readonly from: number;
  /** Of a head: where its stored bytes begin. */
  readonly block: number;
  /** Of the first NONHEAD: how many blocks they take; undefined where it does not say. */
  readonly blocks: number | undefined;
}

interface Indexes {
  readonly reader: ErofsReader;
  readonly what: string;
  readonly advise: number;
  readonly clusterBits: number;
  readonly count: number;
  /** Their first byte. */
  readonly at: number;
  /** Where the file's end lies in the packed file, if it does; its low half in full indexes. */
  readonly packedAt: number;
}

/** A part of a file's own bytes. */
export interface StoredPart {
  readonly own: Extent;
  /** The blocks that hold it; undefined when it lies behind the indexes, or is packed. */
  readonly extent: DeviceExtent | undefined;
  /** Where it lies among the ends of files, by the packed file's own bytes. */
  readonly packed: Extent | undefined;
}

/**
 * As extentsOf, and for compressed files where their stored bytes lie, without those behind the inode
 * or packed with the ends of other files. Fault: image_invalid.
 */
export async function* storedExtents(
  reader: ErofsReader,
  nid: number,
): AsyncGenerator<DeviceExtent, void> {
  const inode = await reader.inode(nid);
  if (isCompressed(inode)) yield* merged(blocksOf(compressedParts(reader, inode)));
  else yield* extentsOf(reader, nid);
}

export function isCompressed({ kind, layout }: Inode): boolean {
  return kind === "file" && (layout === LAYOUT_COMPRESSED || layout === LAYOUT_COMPRESSED_COMPACT);
}

async function* blocksOf(parts: AsyncIterable<StoredPart>): AsyncGenerator<DeviceExtent, void> {
  for await (const { extent } of parts) if (extent !== undefined) yield extent;
}

/** The parts of a compressed file, in its order. Fault: image_invalid. */
export async function* compressedParts(
  reader: ErofsReader,
  inode: Inode,
): AsyncGenerator<StoredPart, void> {
  if (inode.sizeBytes === 0) return;
  const indexes = await readHeader(reader, inode);
  if (indexes === undefined) return;
  if ("packed" in indexes) {
    yield indexes;
    return;
  }
  let head: Head | undefined;
  const isFull = inode.layout === LAYOUT_COMPRESSED;
  let clusterAt = -(2 ** indexes.clusterBits);
  for await (const { type, from, block, blocks } of isFull ? full(indexes) : compact(indexes)) {
    clusterAt += 2 ** indexes.clusterBits;
    if (type !== NONHEAD) {
      const at = clusterAt + from;
      // The last one may only say that the file ends within it.
      if (at >= inode.sizeBytes) break;
      if (head !== undefined) yield inBlocks(head, at, indexes);
      head = { at, type, block, blocks: 1 };
    } else if (head !== undefined && blocks !== undefined && mayBeBig(head.type, indexes)) {
      head.blocks = blocks;
    }
  }
  if (head !== undefined) yield lastPart(head, inode, indexes);
}

interface Head {
  /** First of the file's own bytes that it stands for. */
  readonly at: number;
  readonly type: number;
  readonly block: number;
  blocks: number;
}

function inBlocks(head: Head, end: number, indexes: Indexes): StoredPart {
  const own = { offset: head.at, length: end - head.at };
  return { own, extent: extentOf(head, indexes), packed: undefined };
}

function lastPart(head: Head, { layout, sizeBytes }: Inode, indexes: Indexes): StoredPart {
  const own = { offset: head.at, length: sizeBytes - head.at };
  if ((indexes.advise & ADVISE_FRAGMENT) !== 0) {
    const high = layout === LAYOUT_COMPRESSED ? head.block * 2 ** 32 : 0;
    const packed = { offset: high + indexes.packedAt, length: own.length };
    return { own, extent: undefined, packed };
  }
  if ((indexes.advise & ADVISE_INLINE_TAIL) !== 0) {
    return { own, extent: undefined, packed: undefined };
  }
  return inBlocks(head, sizeBytes, indexes);
}

/** A part when that is all there is; undefined when there are no indexes of a known kind. */
async function readHeader(
  reader: ErofsReader,
  inode: Inode,
): Promise<Indexes | StoredPart | undefined> {
  const what = `the indexes of its inode ${inode.nid}`;
  const headerAt = alignUp(inode.end, HEADER_BYTES);
  const header = viewOf(await reader.bytes(headerAt, HEADER_BYTES, what));
  const advise = header.getUint16(HEADER_ADVISE, true);
  const bits = header.getUint8(HEADER_CLUSTER_BITS);
  const isFull = inode.layout === LAYOUT_COMPRESSED;
  const own = { offset: 0, length: inode.sizeBytes };
  if ((bits & ALL_IS_FRAGMENT) !== 0) {
    const offset = Number(header.getBigUint64(0, true) - ALL_IS_FRAGMENT_BIT);
    return { own, extent: undefined, packed: { offset, length: own.length } };
  }
  if (isFull && (advise & ADVISE_EXTENTS) !== 0) return undefined;
  const clusterBits = BLOCK_BITS + (bits & CLUSTER_BITS);
  if (!isFull && clusterBits > COMPACT_CLUSTER_BITS_MAX) {
    throw invalid(reader.file.where, `${what} are for clusters of 2^${clusterBits} bytes`);
  }
  const at = headerAt + HEADER_BYTES + (isFull ? FULL_RESERVED_BYTES : 0);
  const count = Math.ceil(inode.sizeBytes / 2 ** clusterBits);
  const packedAt = header.getUint32(0, true);
  return { reader, what, advise, clusterBits, count, at, packedAt };
}

function mayBeBig(type: number, { advise }: Indexes): boolean {
  return (advise & (type === HEAD_1 ? ADVISE_BIG_1 : ADVISE_BIG_2)) !== 0;
}

function extentOf(
  { block, blocks }: { block: number; blocks: number },
  { reader, what }: Indexes,
): DeviceExtent {
  const { where, sizeBytes } = reader.file;
  const extent = { device: 0, offset: block * BLOCK_BYTES, length: blocks * BLOCK_BYTES };
  if (blocks === 0 || !liesWithin(extent, alignUp(sizeBytes, BLOCK_BYTES))) {
    throw invalid(where, `${what} lead to ${blocks} blocks at ${block}, outside of it`);
  }
  return extent;
}

async function* full({ reader, what, count, at }: Indexes): AsyncGenerator<Cluster, void> {
  const perRead = BLOCK_BYTES / FULL_BYTES;
  for (let index = 0; index < count; index += perRead) {
    const entries = Math.min(perRead, count - index);
    const bytes = await reader.bytes(at + index * FULL_BYTES, entries * FULL_BYTES, what);
    const view = viewOf(bytes);
    for (let n = 0; n < entries; n += 1) {
      const distance = view.getUint16(n * FULL_BYTES + 4, true);
      yield {
        type: view.getUint16(n * FULL_BYTES, true) & TYPE,
        from: view.getUint16(n * FULL_BYTES + 2, true),
        block: view.getUint32(n * FULL_BYTES + 4, true),
        blocks: countOf(distance),
      };
    }
  }
}

/** Packs of 4 bytes an entry up to a multiple of 32 bytes, then of 2 bytes, then of 4 again. */
async function* compact(indexes: Indexes): AsyncGenerator<Cluster, void> {
  const { count, at, advise } = indexes;
  const first = Math.min(count, ((PACK_2.bytes - (at % PACK_2.bytes)) / 4) & 7);
  const isMixed = (advise & ADVISE_2_BYTES) !== 0 && first < count;
  const middle = isMixed ? alignDown(count - first, PACK_2.entries) : 0;
  yield* packs(indexes, { at, count: first, pack: PACK_4 });
  const middleAt = at + first * 4;
  yield* packs(indexes, { at: middleAt, count: middle, pack: PACK_2 });
  const last = count - first - middle;
  yield* packs(indexes, { at: middleAt + middle * 2, count: last, pack: PACK_4 });
}

async function* packs(
  indexes: Indexes,
  of: { readonly at: number; readonly count: number; readonly pack: typeof PACK_2 | typeof PACK_4 },
): AsyncGenerator<Cluster, void> {
  const { pack, count } = of;
  for (let n = 0; n < count; n += pack.entries) {
    const at = of.at + (n / pack.entries) * pack.bytes;
    const bytes = await indexes.reader.bytes(at, pack.bytes, indexes.what);
    const clusters = unpacked(viewOf(bytes), pack.entries, indexes);
    yield* clusters.slice(0, Math.min(pack.entries, count - n));
  }
}

interface Packed {
  readonly type: number;
  readonly low: number;
}

/** Entries of some bits each, then the block before that of the first head among them. */
function unpacked(view: DataView, count: number, indexes: Indexes): Cluster[] {
  const width = ((view.byteLength - PACK_BASE_BYTES) * 8) / count;
  const lowBits = Math.max(indexes.clusterBits, BLOCK_BITS);
  const entries = Array.from({ length: count }, (_, index): Packed => {
    const bit = index * width;
    const value = view.getUint32(bit >> 3, true) >>> (bit & 7);
    return { type: (value >>> lowBits) & TYPE, low: value & (2 ** lowBits - 1) };
  });
  const base = view.getUint32(view.byteLength - PACK_BASE_BYTES, true);
  return entries.map(({ type, low }, index) =>
    type === NONHEAD
      ? { type, from: 0, block: 0, blocks: countOf(low) }
      : { type, from: low, block: base + blocksBefore(entries, index, indexes), blocks: undefined },
  );
}

/** As the kernel counts: a block for each head up to this one; or what big ones tell of themselves. */
function blocksBefore(entries: readonly Packed[], index: number, { advise }: Indexes): number {
  const isBig = (advise & ADVISE_BIG_1) !== 0;
  let blocks = isBig ? 0 : 1;
  for (let at = index - 1; at >= 0; at -= 1) {
    const { type, low } = entries[at] ?? { type: PLAIN, low: 0 };
    const stored = isBig && type === NONHEAD ? countOf(low) : undefined;
    if (stored !== undefined) {
      blocks += stored;
      at -= 1;
    } else if (type !== NONHEAD) blocks += 1;
    else if (isBig) at -= Math.max(0, low - 2);
    else {
      at -= low;
      if (at >= 0) blocks += 1;
    }
  }
  return blocks;
}

function countOf(distance: number): number | undefined {
  return (distance & IS_COUNT) === 0 ? undefined : distance & ~IS_COUNT;
}
