// SPDX-License-Identifier: Apache-2.0
// The head of a RAFS v6 bootstrap: an EROFS superblock at byte 1024, the extended superblock of
// Nydus behind it, then one device slot a blob. It says where the tables of blobs, chunks and
// prefetched files lie. Encrypted images, tarfs images and RAFS v4/v5 are refused by name.
// Source: nydus 2.4, rafs/src/metadata/layout/v6.rs; fs/erofs/erofs_fs.h.

import { BLOCK_BYTES, type Extent, MIB } from "../../units.ts";
import { parseDeviceTable } from "../erofs/device-table.ts";
import { asHex, invalid, isPowerOfTwo, liesWithin, u64At, unsupported, viewOf } from "./fields.ts";

/** Device numbers are 8 bits wide and 0 is the bootstrap. */
const DEVICES_MAX = 254;
const SUPERBLOCK_OFFSET = 1024;
const EXTENDED_OFFSET = 1152;
const SLOTS_OFFSET = 1408;
const SLOT_BYTES = 128;

/** 1408 bytes of superblocks and 255 device slots of 128 bytes, in whole blocks. */
export const BOOTSTRAP_HEAD_BYTES = 9 * BLOCK_BYTES;

export const BLOB_ENTRY_BYTES = 256;
export const CHUNK_ROW_BYTES = 80;
const PREFETCH_ENTRY_BYTES = 4;
const INODE_SLOT_BYTES = 32;
export const CHUNK_BYTES_MAX = 16 * MIB;

const EROFS_MAGIC = 0xe0f5e1e2;
const COMPAT_CHECKSUM = 0x1;
const COMPAT_RAFS_V6 = 0x40000000;
/** Chunked files and a device table. */
const INCOMPAT_RAFS_V6 = 0xc;
const BLOCK_BITS = 12;
const BLOCK_BITS_TARFS = 9;

/** RAFS v4 and v5 begin with their own magic, then the version. */
const RAFS_OLD_MAGIC = 0x52414653;

const CODEC_FLAGS = 0x1 | 0x2 | 0x40 | 0x80;
const DIGEST_FLAGS = 0x4 | 0x8;
const FLAG_EXPLICIT_OWNER = 0x10;
const FLAG_XATTRS = 0x20;
const FLAG_BLOB_DIGESTS = 0x100;
const FLAG_TARFS = 0x200;
const FLAG_NOT_ENCRYPTED = 0x1000000;
const FLAG_ENCRYPTED = 0x2000000;
const KNOWN_FLAGS =
  CODEC_FLAGS |
  DIGEST_FLAGS |
  FLAG_EXPLICIT_OWNER |
  FLAG_XATTRS |
  FLAG_BLOB_DIGESTS |
  FLAG_NOT_ENCRYPTED;

export interface RafsBootstrap {
  readonly sizeBytes: number;
  /** The largest chunk of every blob, a power of two. */
  readonly chunkBytes: number;
  readonly flags: number;
  readonly hasXattrs: boolean;
  /** Every blob has a `blob.digest` section. */
  readonly hasBlobDigests: boolean;
  readonly blobTable: Extent;
  readonly chunkTable: Extent;
  readonly prefetchTable: Extent;
  readonly rootNid: number;
  readonly inodeCount: number;
  /** Where inodes begin, in blocks: inode n is at metaBlock * 4096 + n * 32. */
  readonly metaBlock: number;
  /** Blob ids, in the order in which the kernel opens the devices. */
  readonly deviceTags: readonly string[];
  readonly deviceBlocks: readonly number[];
}

/** True for any RAFS version, so that a caller can choose a parser. */
export function isRafsBootstrap(head: Uint8Array): boolean {
  const view = viewOf(head);
  if (head.length >= 8 && view.getUint32(0, true) === RAFS_OLD_MAGIC) return true;
  return (
    head.length >= SUPERBLOCK_OFFSET + 12 &&
    view.getUint32(SUPERBLOCK_OFFSET, true) === EROFS_MAGIC &&
    (view.getUint32(SUPERBLOCK_OFFSET + 8, true) & COMPAT_RAFS_V6) !== 0
  );
}

/**
 * `head` is the first BOOTSTRAP_HEAD_BYTES of the file, or all of a shorter one; `sizeBytes` is
 * the file's size. Faults: image_invalid, image_unsupported.
 */
export function parseBootstrapHead(
  head: Uint8Array,
  sizeBytes: number,
  where: string,
): RafsBootstrap {
  checkVersion(head, where);
  const headBytes = Math.min(sizeBytes, BOOTSTRAP_HEAD_BYTES);
  if (head.length < headBytes || sizeBytes < BLOCK_BYTES) {
    throw invalid(where, `it is cut: ${head.length} of ${Math.max(headBytes, BLOCK_BYTES)} bytes`);
  }
  if (sizeBytes % BLOCK_BYTES !== 0) {
    throw invalid(where, `its ${sizeBytes} bytes are not whole blocks of 4096`);
  }
  const bytes = head.subarray(0, headBytes);
  const view = viewOf(bytes);
  checkSuperblock(view, where);
  const flags = parseFlags(view, where);
  const chunkBytes = view.getUint32(EXTENDED_OFFSET + 20, true);
  if (!isPowerOfTwo(chunkBytes) || chunkBytes < BLOCK_BYTES || chunkBytes > CHUNK_BYTES_MAX) {
    throw invalid(where, `its chunks have up to ${chunkBytes} bytes; 4 KiB to 16 MiB are possible`);
  }
  const slots = parseSlots(bytes, where);
  const tables = parseTables(view, { sizeBytes, deviceCount: slots.length }, where);
  return {
    sizeBytes,
    chunkBytes,
    flags,
    hasXattrs: (flags & FLAG_XATTRS) !== 0,
    hasBlobDigests: (flags & FLAG_BLOB_DIGESTS) !== 0,
    ...tables,
    ...parseInodes(view, sizeBytes, where),
    deviceTags: slots.map(({ tag }) => tag),
    deviceBlocks: slots.map(({ blocks }) => blocks),
  };
}

function checkVersion(head: Uint8Array, where: string): void {
  if (head.length < 8) throw invalid(where, `it is cut: ${head.length} bytes`);
  const view = viewOf(head);
  if (view.getUint32(0, true) !== RAFS_OLD_MAGIC) return;
  const version = view.getUint32(4, true);
  throw unsupported(where, `it is a Nydus RAFS v${version / 0x100} bootstrap; only v6 is served`);
}

function checkSuperblock(view: DataView, where: string): void {
  const u32 = (offset: number): number => view.getUint32(SUPERBLOCK_OFFSET + offset, true);
  if (u32(0) !== EROFS_MAGIC) {
    throw invalid(where, `it is not a RAFS v6 bootstrap: magic is ${asHex(u32(0))}`);
  }
  const compat = u32(8);
  if ((compat & COMPAT_RAFS_V6) === 0) {
    throw invalid(where, "it is a plain EROFS image, not a RAFS v6 bootstrap");
  }
  if ((compat & COMPAT_CHECKSUM) !== 0 || u32(4) !== 0) {
    throw invalid(where, "its superblock has a checksum, which RAFS v6 does not define");
  }
  const blockBits = view.getUint8(SUPERBLOCK_OFFSET + 12);
  if (blockBits === BLOCK_BITS_TARFS) {
    throw unsupported(where, "it is a tarfs image (blocks of 512 bytes)");
  }
  if (blockBits !== BLOCK_BITS) {
    throw unsupported(where, `its blocks have 2^${blockBits} bytes; mounts over fscache need 4096`);
  }
  if (view.getUint8(SUPERBLOCK_OFFSET + 13) !== 0) {
    throw invalid(where, "its superblock has extension slots, where RAFS has its own superblock");
  }
  const incompat = u32(80);
  if (incompat !== INCOMPAT_RAFS_V6) {
    throw unsupported(where, `its EROFS features are ${asHex(incompat)}; RAFS v6 has 0xc`);
  }
}

function parseFlags(view: DataView, where: string): number {
  const flags = view.getUint32(EXTENDED_OFFSET, true);
  const high = view.getUint32(EXTENDED_OFFSET + 4, true);
  if ((flags & FLAG_ENCRYPTED) !== 0) throw unsupported(where, "it is an encrypted RAFS image");
  if ((flags & FLAG_TARFS) !== 0) throw unsupported(where, "it is a tarfs image");
  const unknown = flags & ~KNOWN_FLAGS;
  if (unknown !== 0 || high !== 0) {
    const bits = high === 0 ? asHex(unknown) : `${asHex(high)} << 32`;
    throw unsupported(where, `it has RAFS flags unknown here: ${bits}`);
  }
  if (!isPowerOfTwo(flags & CODEC_FLAGS)) {
    throw invalid(where, `its RAFS flags ${asHex(flags)} do not name exactly one codec`);
  }
  if (!isPowerOfTwo(flags & DIGEST_FLAGS)) {
    throw invalid(where, `its RAFS flags ${asHex(flags)} do not name exactly one digest algorithm`);
  }
  return flags;
}

function parseSlots(bytes: Uint8Array, where: string): ReturnType<typeof parseDeviceTable> {
  const view = viewOf(bytes);
  const deviceCount = view.getUint16(SUPERBLOCK_OFFSET + 86, true);
  if (deviceCount > DEVICES_MAX) {
    throw invalid(where, `it has ${deviceCount} devices; ${DEVICES_MAX} are possible`);
  }
  const offset = view.getUint16(SUPERBLOCK_OFFSET + 88, true) * SLOT_BYTES;
  if (offset !== SLOTS_OFFSET) {
    throw invalid(where, `its device table is at byte ${offset}, not ${SLOTS_OFFSET}`);
  }
  const table = bytes.subarray(SLOTS_OFFSET, SLOTS_OFFSET + deviceCount * SLOT_BYTES);
  return parseDeviceTable(table, { deviceCount, wideBlocks: false }, where);
}

function parseTables(
  view: DataView,
  of: { readonly sizeBytes: number; readonly deviceCount: number },
  where: string,
): Pick<RafsBootstrap, "blobTable" | "chunkTable" | "prefetchTable"> {
  const u64 = (at: number, what: string): number => u64At(view, EXTENDED_OFFSET + at, what, where);
  const u32 = (at: number): number => view.getUint32(EXTENDED_OFFSET + at, true);
  const blobTable = { offset: u64(8, "its blob table's offset"), length: u32(16) };
  const chunkTable = {
    offset: u64(24, "its chunk table's offset"),
    length: u64(32, "its chunk table's size"),
  };
  const prefetchTable = { offset: u64(40, "its prefetch table's offset"), length: u32(48) };
  const slotsEnd = SLOTS_OFFSET + of.deviceCount * SLOT_BYTES;
  const check = (name: string, extent: Extent, step: { align: number; entry: number }): void => {
    if (extent.length === 0) return;
    if (!liesWithin(extent, of.sizeBytes) || extent.offset < slotsEnd) {
      throw invalid(where, `its ${name} table is outside of it, or inside its superblock`);
    }
    if (extent.offset % step.align !== 0) {
      throw invalid(where, `its ${name} table at byte ${extent.offset} is not aligned`);
    }
    if (extent.length % step.entry !== 0) {
      throw invalid(where, `its ${name} table has ${extent.length} bytes, not whole entries`);
    }
  };
  check("blob", blobTable, { align: BLOCK_BYTES, entry: BLOB_ENTRY_BYTES });
  check("chunk", chunkTable, { align: BLOCK_BYTES, entry: CHUNK_ROW_BYTES });
  check("prefetch", prefetchTable, { align: 1, entry: PREFETCH_ENTRY_BYTES });
  const blobs = blobTable.length / BLOB_ENTRY_BYTES;
  if (blobs !== of.deviceCount) {
    throw invalid(where, `it has ${of.deviceCount} devices, but ${blobs} blobs`);
  }
  return { blobTable, chunkTable, prefetchTable };
}

function parseInodes(
  view: DataView,
  sizeBytes: number,
  where: string,
): Pick<RafsBootstrap, "rootNid" | "inodeCount" | "metaBlock"> {
  const rootNid = view.getUint16(SUPERBLOCK_OFFSET + 14, true);
  const inodeCount = u64At(view, SUPERBLOCK_OFFSET + 16, "its inode count", where);
  const metaBlock = view.getUint32(SUPERBLOCK_OFFSET + 40, true);
  const root = {
    offset: metaBlock * BLOCK_BYTES + rootNid * INODE_SLOT_BYTES,
    length: INODE_SLOT_BYTES,
  };
  if (!liesWithin(root, sizeBytes)) {
    throw invalid(where, `its root directory at byte ${root.offset} is outside of it`);
  }
  return { rootNid, inodeCount, metaBlock };
}
