// SPDX-License-Identifier: Apache-2.0
// Inodes of EROFS, read one at a time through a few cached pages: where a file's bytes lie on
// the image's devices. Enough for RAFS v6 (files of chunks, directories flat or inline) and for
// uncompressed files of plain EROFS. Whatever lies outside of the file is a fault, and so is an
// image whose inodes lead to reading it over and over.
// Source: fs/erofs/erofs_fs.h, inode.c and data.c of Linux 6.12.

import { BLOCK_BYTES, KIB, MIB, alignUp } from "../../units.ts";
import { invalid, liesWithin, u64At, viewOf } from "../rafs/fields.ts";

/** A part of a device; in whole blocks, so its last one may go beyond the file's end. */
export interface DeviceExtent {
  /** 0: the primary device; 1: the first extra one. */
  readonly device: number;
  readonly offset: number;
  readonly length: number;
}

export interface ErofsFile {
  /** Bytes of the primary device, in memory that stays as it is; fewer mean a cut image. */
  readonly readAt: (offset: number, length: number) => Promise<Uint8Array>;
  readonly sizeBytes: number;
  /** Where inodes begin, in blocks: inode n is at metaBlock * 4096 + n * 32. */
  readonly metaBlock: number;
  /** The size of each extra device, in blocks; 0 where it is not told (mkfs.erofs --blobdev). */
  readonly deviceBlocks: readonly number[];
  /** Names the image in faults. */
  readonly where: string;
  /** Awaited after each bit of work, so that others get their turn though all is in memory. */
  readonly pause?: () => Promise<void>;
}

export interface Inode {
  readonly nid: number;
  readonly kind: "file" | "directory" | "link" | "other";
  readonly layout: number;
  readonly sizeBytes: number;
  /** i_u: the first block, or the format of the chunks. */
  readonly start: number;
  /** Its first byte. */
  readonly at: number;
  /** Where its extended attributes begin, which end at `end`. */
  readonly xattrsAt: number;
  /** First byte behind the inode and its extended attributes. */
  readonly end: number;
}

const PAGE_BYTES = 32 * KIB;
const PAGES_MAX = 8;
/** All reads together: a sound image needs each byte once or twice. */
const WORK_MAX = 64;
const WORK_SPARE_BYTES = MIB;
const WORK_BETWEEN_PAUSES = 256 * KIB;
/** Block numbers have 32 bits. */
const ADDRESS_END = 2 ** 32 * BLOCK_BYTES;

const INODE_SLOT_BYTES = 32;
const COMPACT_BYTES = 32;
const EXTENDED_BYTES = 64;
const FORMAT_EXTENDED = 0x1;
const FORMAT_LAYOUT_SHIFT = 1;
const FORMAT_KNOWN = 0xf;
const XATTR_HEADER_BYTES = 12;
const XATTR_SLOT_BYTES = 4;
const MODE_TYPE = 0xf000;
const MODE_FILE = 0x8000;
const MODE_DIRECTORY = 0x4000;
const MODE_LINK = 0xa000;

const KINDS: ReadonlyMap<number, Inode["kind"]> = new Map([
  [MODE_FILE, "file"],
  [MODE_DIRECTORY, "directory"],
  [MODE_LINK, "link"],
]);

export const LAYOUT_PLAIN = 0;
export const LAYOUT_COMPRESSED = 1;
export const LAYOUT_INLINE = 2;
export const LAYOUT_COMPRESSED_COMPACT = 3;
export const LAYOUT_CHUNKS = 4;

const CHUNK_BITS = 0x1f;
const CHUNK_INDEXES = 0x20;
const CHUNK_BITS_MAX = 31;
const INDEX_BYTES = 8;
const MAP_BYTES = 4;
/** A hole: nothing is stored. */
const NO_BLOCK = 0xffffffff;

export class ErofsReader {
  readonly file: ErofsFile;
  /** The page used last is the last one. */
  readonly #pages = new Map<number, Uint8Array>();
  #workLeft: number;
  #workSincePause = 0;

  constructor(file: ErofsFile) {
    this.file = file;
    this.#workLeft = WORK_MAX * file.sizeBytes + WORK_SPARE_BYTES;
  }

  /** At most a block; `what` names it in the fault. */
  async bytes(offset: number, length: number, what: string): Promise<Uint8Array> {
    const { sizeBytes, where } = this.file;
    if (!liesWithin({ offset, length }, sizeBytes)) {
      throw invalid(where, `${what} at byte ${offset} is outside of it`);
    }
    await this.#work(length);
    const at = offset % PAGE_BYTES;
    const page = await this.#page(offset - at);
    if (at + length <= page.length) return page.subarray(at, at + length);
    const bytes = new Uint8Array(length);
    bytes.set(page.subarray(at));
    const next = await this.#page(offset - at + PAGE_BYTES);
    bytes.set(next.subarray(0, length - (page.length - at)), page.length - at);
    return bytes;
  }

  async inode(nid: number): Promise<Inode> {
    const { metaBlock, where } = this.file;
    const what = `its inode ${nid}`;
    const at = metaBlock * BLOCK_BYTES + nid * INODE_SLOT_BYTES;
    const head = viewOf(await this.bytes(at, COMPACT_BYTES, what));
    const format = head.getUint16(0, true);
    const layout = format >> FORMAT_LAYOUT_SHIFT;
    if ((format & ~FORMAT_KNOWN) !== 0 || layout > LAYOUT_CHUNKS) {
      throw invalid(where, `${what} has format 0x${format.toString(16)}`);
    }
    const isExtended = (format & FORMAT_EXTENDED) !== 0;
    const xattrs = head.getUint16(2, true);
    const xattrBytes = xattrs === 0 ? 0 : XATTR_HEADER_BYTES + (xattrs - 1) * XATTR_SLOT_BYTES;
    const type = head.getUint16(4, true) & MODE_TYPE;
    const xattrsAt = at + (isExtended ? EXTENDED_BYTES : COMPACT_BYTES);
    return {
      nid,
      kind: KINDS.get(type) ?? "other",
      layout,
      sizeBytes: isExtended ? u64At(head, 8, `${what}'s size`, where) : head.getUint32(8, true),
      start: head.getUint32(16, true),
      at,
      xattrsAt,
      end: xattrsAt + xattrBytes,
    };
  }

  async #work(bytes: number): Promise<void> {
    const { where, pause } = this.file;
    this.#workLeft -= bytes;
    if (this.#workLeft < 0)
      throw invalid(where, "its inodes refer to the same places over and over");
    this.#workSincePause += bytes;
    if (this.#workSincePause < WORK_BETWEEN_PAUSES) return;
    this.#workSincePause = 0;
    await pause?.();
  }

  async #page(offset: number): Promise<Uint8Array> {
    const { file } = this;
    const known = this.#pages.get(offset);
    if (known !== undefined) {
      this.#pages.delete(offset);
      this.#pages.set(offset, known);
      return known;
    }
    const length = Math.min(PAGE_BYTES, file.sizeBytes - offset);
    const page = await file.readAt(offset, length);
    if (page.length !== length) throw invalid(file.where, `it is cut at byte ${offset}`);
    for (const oldest of this.#pages.keys()) {
      if (this.#pages.size < PAGES_MAX) break;
      this.#pages.delete(oldest);
    }
    this.#pages.set(offset, page);
    return page;
  }
}

/**
 * Where the bytes of a regular file lie, in its order; neighbours come as one. Nothing for other
 * inodes, for holes, for bytes inside the inode and for compressed files. Fault: image_invalid.
 */
export async function* extentsOf(
  reader: ErofsReader,
  nid: number,
): AsyncGenerator<DeviceExtent, void> {
  const inode = await reader.inode(nid);
  if (inode.kind !== "file" || inode.sizeBytes === 0) return;
  if (inode.layout === LAYOUT_CHUNKS) {
    yield* merged(chunkExtents(reader, inode));
    return;
  }
  if (inode.layout !== LAYOUT_PLAIN && inode.layout !== LAYOUT_INLINE) return;
  const extent = { device: 0, offset: inode.start * BLOCK_BYTES, length: flatBytes(inode) };
  if (!liesWithin(extent, ADDRESS_END)) {
    throw invalid(reader.file.where, `its inode ${nid} has ${inode.sizeBytes} bytes`);
  }
  if (extent.length > 0) yield extent;
}

/** The bytes of a flat inode that lie in blocks of their own; what is left is behind the inode. */
export function flatBytes({ layout, sizeBytes }: Inode): number {
  const blocks = alignUp(sizeBytes, BLOCK_BYTES);
  return layout === LAYOUT_INLINE ? Math.max(0, blocks - BLOCK_BYTES) : blocks;
}

async function* chunkExtents(
  reader: ErofsReader,
  inode: Inode,
): AsyncGenerator<DeviceExtent, void> {
  const { where, sizeBytes: imageBytes } = reader.file;
  const what = `the chunks of its inode ${inode.nid}`;
  const bits = inode.start & CHUNK_BITS;
  if ((inode.start & ~(CHUNK_BITS | CHUNK_INDEXES)) !== 0 || bits > CHUNK_BITS_MAX) {
    throw invalid(where, `${what} have format 0x${inode.start.toString(16)}`);
  }
  const chunkBytes = BLOCK_BYTES * 2 ** bits;
  const entryBytes = (inode.start & CHUNK_INDEXES) === 0 ? MAP_BYTES : INDEX_BYTES;
  const table = alignUp(inode.end, entryBytes);
  const count = Math.ceil(inode.sizeBytes / chunkBytes);
  if (!liesWithin({ offset: table, length: count * entryBytes }, imageBytes)) {
    throw invalid(where, `${what}, ${count} at byte ${table}, are outside of it`);
  }
  const perRead = BLOCK_BYTES / entryBytes;
  for (let index = 0; index < count; index += perRead) {
    const entries = Math.min(perRead, count - index);
    const bytes = await reader.bytes(table + index * entryBytes, entries * entryBytes, what);
    const view = viewOf(bytes);
    for (let n = 0; n < entries; n += 1) {
      const left = inode.sizeBytes - (index + n) * chunkBytes;
      const length = Math.min(chunkBytes, alignUp(left, BLOCK_BYTES));
      const extent = chunkAt(view, n * entryBytes, { reader, what, length, entryBytes });
      if (extent !== undefined) yield extent;
    }
  }
}

// The kernel takes as many bits of the device as it needs for their count; RAFS puts bits of its
// own above them.
function chunkAt(
  view: DataView,
  at: number,
  of: {
    readonly reader: ErofsReader;
    readonly what: string;
    readonly length: number;
    readonly entryBytes: number;
  },
): DeviceExtent | undefined {
  const { file } = of.reader;
  const isIndex = of.entryBytes === INDEX_BYTES;
  const block = view.getUint32(isIndex ? at + 4 : at, true);
  if (block === NO_BLOCK) return undefined;
  const count = file.deviceBlocks.length;
  const device = isIndex ? view.getUint16(at + 2, true) & deviceMask(count) : 0;
  const offset = block * BLOCK_BYTES;
  const blocks = device === 0 ? 0 : file.deviceBlocks[device - 1];
  if (blocks === undefined) {
    throw invalid(file.where, `${of.what} are on device ${device} of ${count}`);
  }
  const deviceEnd = blocks === 0 ? ADDRESS_END : blocks * BLOCK_BYTES;
  if (!liesWithin({ offset, length: of.length }, deviceEnd)) {
    throw invalid(file.where, `${of.what} end beyond device ${device}`);
  }
  return { device, offset, length: of.length };
}

function deviceMask(deviceCount: number): number {
  let mask = 0;
  while (mask < deviceCount) mask = 2 * mask + 1;
  return mask;
}

/** Extents that go on where the one before them ends become one, up to `lengthMax`. */
export async function* merged(
  extents: AsyncIterable<DeviceExtent>,
  lengthMax = Infinity,
): AsyncGenerator<DeviceExtent, void> {
  let before: DeviceExtent | undefined;
  for await (const extent of extents) {
    const goesOn =
      before?.device === extent.device &&
      before.offset + before.length === extent.offset &&
      before.length + extent.length <= lengthMax;
    if (before !== undefined && !goesOn) yield before;
    const { device } = extent;
    before =
      before !== undefined && goesOn
        ? { device, offset: before.offset, length: before.length + extent.length }
        : extent;
  }
  if (before !== undefined) yield before;
}
