// SPDX-License-Identifier: Apache-2.0
// The EROFS superblock: 128 bytes at byte 1024 of the primary device, all little-endian. It says
// how large the image is, what a kernel must know to mount it and where its device table lies.
// What the kernel would refuse is refused here first, with a reason (mount(2) gives none).
// Source: fs/erofs/erofs_fs.h, struct erofs_super_block; fs/erofs/super.c.

import { DaemonError } from "../../errors.ts";
import { BLOCK_BYTES, type Extent } from "../../units.ts";
import { crc32c } from "./crc32c.ts";
import {
  DEVICE_TABLE_BIT,
  type Feature,
  WIDE_BLOCKS_BIT,
  featuresOf,
  unknownFeatures,
} from "./features.ts";

/** The head of the primary device that parseSuperblock must be given, in bytes. */
export const SUPERBLOCK_HEAD_BYTES = BLOCK_BYTES;

const SUPERBLOCK_OFFSET = 1024;
const SUPERBLOCK_BYTES = 128;
const EXTENSION_SLOT_BYTES = 16;
const DEVICE_SLOT_BYTES = 128;
const MAGIC = 0xe0f5e1e2;
const BLOCK_BITS = 12;
const COMPAT_CHECKSUM = 0x1;
const COMPAT_RAFS_V6 = 0x40000000;

// Field offsets from the superblock's start.
const CHECKSUM = 4;
const FEATURE_COMPAT = 8;
const BLOCK_SIZE_BITS = 12;
const EXTENSION_SLOTS = 13;
/** The root directory's number; the high half of `blocks` when ROOT_NID_WIDE has that number. */
const BLOCKS_HIGH = 14;
const BLOCKS = 36;
const FEATURE_INCOMPAT = 80;
const COMPRESSION = 84;
const EXTRA_DEVICES = 86;
const DEVICE_TABLE_SLOT = 88;
const DIRECTORY_BLOCK_BITS = 90;
const ROOT_NID_WIDE = 112;

export interface Superblock {
  /** Blocks of 4 KiB on the primary device. */
  readonly blocks: number;
  /**
   * The image has compressed files. Exact for images with any compression feature or a non-zero
   * lz4 window; images compressed by erofs-utils before 1.3 may not tell.
   */
  readonly compressed: boolean;
  readonly features: readonly Feature[];
  /** Block addresses are 48 bits wide (also in the device table). */
  readonly wideBlocks: boolean;
  readonly deviceCount: number;
  /** Where the device table lies on the primary device; undefined when there are no devices. */
  readonly deviceTable: Extent | undefined;
}

/**
 * `head` is the primary device's first 4096 bytes (more is ignored, less is a fault).
 * Faults: image_invalid (not EROFS, damaged), image_unsupported (EROFS the fscache door cannot
 * serve: another block size, unknown features, RAFS).
 */
export function parseSuperblock(head: Uint8Array, where: string): Superblock {
  if (head.length < SUPERBLOCK_HEAD_BYTES) {
    throw invalid(where, `it has ${head.length} bytes, too few for an EROFS superblock`);
  }
  const block = head.subarray(0, SUPERBLOCK_HEAD_BYTES);
  const view = new DataView(block.buffer, block.byteOffset + SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES);
  const magic = view.getUint32(0, true);
  if (magic !== MAGIC) {
    throw invalid(where, `it is not an EROFS image: magic is 0x${magic.toString(16)}`);
  }
  const incompat = view.getUint32(FEATURE_INCOMPAT, true);
  checkServed(view, incompat, where);
  checkShape(view, where);
  if ((view.getUint32(FEATURE_COMPAT, true) & COMPAT_CHECKSUM) !== 0) checkChecksum(block, where);
  const features = featuresOf(incompat);
  const wideBlocks = (incompat & WIDE_BLOCKS_BIT) !== 0;
  const hasHigh = wideBlocks && view.getBigUint64(ROOT_NID_WIDE, true) !== 0n;
  const high = hasHigh ? view.getUint16(BLOCKS_HIGH, true) : 0;
  const hasTable = (incompat & DEVICE_TABLE_BIT) !== 0;
  const deviceCount = hasTable ? view.getUint16(EXTRA_DEVICES, true) : 0;
  return {
    blocks: high * 2 ** 32 + view.getUint32(BLOCKS, true),
    compressed:
      features.some(({ compression }) => compression) || view.getUint16(COMPRESSION, true) !== 0,
    features,
    wideBlocks,
    deviceCount,
    deviceTable: deviceCount === 0 ? undefined : tableExtent(view, deviceCount, where),
  };
}

/** The device table overlapping the superblock would make both mean something else. */
function tableExtent(view: DataView, deviceCount: number, where: string): Extent {
  const offset = view.getUint16(DEVICE_TABLE_SLOT, true) * DEVICE_SLOT_BYTES;
  if (offset < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES) {
    throw invalid(where, `its device table at byte ${offset} overlaps the superblock`);
  }
  return { offset, length: deviceCount * DEVICE_SLOT_BYTES };
}

function checkServed(view: DataView, incompat: number, where: string): void {
  if ((view.getUint32(FEATURE_COMPAT, true) & COMPAT_RAFS_V6) !== 0) {
    throw unsupported(where, "it is a Nydus RAFS v6 bootstrap, not a plain EROFS image");
  }
  const bits = view.getUint8(BLOCK_SIZE_BITS);
  if (bits < 9 || bits > 16) throw invalid(where, `its block size is 2^${bits} bytes`);
  if (bits !== BLOCK_BITS) {
    throw unsupported(where, `its blocks have ${2 ** bits} bytes; mounts over fscache need 4096`);
  }
  const unknown = unknownFeatures(incompat);
  if (unknown.length > 0) {
    throw unsupported(where, `it needs EROFS features unknown here: ${unknown.join(", ")}`);
  }
}

function checkShape(view: DataView, where: string): void {
  const slots = view.getUint8(EXTENSION_SLOTS);
  const end = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES + slots * EXTENSION_SLOT_BYTES;
  if (end > BLOCK_BYTES) throw invalid(where, "its superblock is larger than its block");
  const directoryBits = view.getUint8(DIRECTORY_BLOCK_BITS);
  if (directoryBits !== 0) throw invalid(where, `its directory block bits are ${directoryBits}`);
}

/** Covers byte 1024 to the end of the first block, the checksum field counted as zero. */
function checkChecksum(block: Uint8Array, where: string): void {
  const field = SUPERBLOCK_OFFSET + CHECKSUM;
  const stored = new DataView(block.buffer, block.byteOffset + field, 4).getUint32(0, true);
  let crc = crc32c(0xffffffff, block.subarray(SUPERBLOCK_OFFSET, field));
  crc = crc32c(crc, new Uint8Array(4));
  crc = crc32c(crc, block.subarray(field + 4));
  if (crc !== stored) {
    throw invalid(
      where,
      `its superblock's checksum is 0x${crc.toString(16)}, not 0x${stored.toString(16)}`,
    );
  }
}

function invalid(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_invalid", where, detail });
}

function unsupported(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_unsupported", where, detail });
}
