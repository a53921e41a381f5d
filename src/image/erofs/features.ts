// SPDX-License-Identifier: Apache-2.0
// The incompatible features an EROFS superblock may ask for, and the first kernel that serves
// each. An unknown bit means metadata we would misread, so it is refused. Some bits have two
// names: the same kernels learnt both. Source: fs/erofs/erofs_fs.h and the kernel's history.

export interface Feature {
  readonly bit: number;
  readonly name: string;
  /** First mainline kernel that mounts it. */
  readonly kernel: string;
  /** Only compressed files need it. */
  readonly compression: boolean;
}

export const DEVICE_TABLE_BIT = 0x8;
export const WIDE_BLOCKS_BIT = 0x80;

const FEATURES: readonly Feature[] = [
  { bit: 0x1, name: "lz4_0padding", kernel: "5.4", compression: true },
  { bit: 0x2, name: "compr_cfgs or big_pcluster", kernel: "5.13", compression: true },
  { bit: 0x4, name: "chunked_file", kernel: "5.15", compression: false },
  {
    bit: DEVICE_TABLE_BIT,
    name: "device_table or compr_head2",
    kernel: "5.16",
    compression: false,
  },
  { bit: 0x10, name: "ztailpacking", kernel: "5.17", compression: true },
  { bit: 0x20, name: "fragments or dedupe", kernel: "6.1", compression: true },
  { bit: 0x40, name: "xattr_prefixes", kernel: "6.4", compression: false },
  { bit: WIDE_BLOCKS_BIT, name: "48bit", kernel: "6.15", compression: false },
  { bit: 0x100, name: "metabox", kernel: "6.17", compression: false },
];

const KNOWN_BITS = FEATURES.reduce((bits, feature) => bits | feature.bit, 0);

/** The features whose bits are set, in the order kernels learnt them. */
export function featuresOf(incompat: number): readonly Feature[] {
  return FEATURES.filter((feature) => (incompat & feature.bit) !== 0);
}

/** Set bits without a name here, each as a hexadecimal number; none for an image we can read. */
export function unknownFeatures(incompat: number): readonly string[] {
  const unknown = (incompat & ~KNOWN_BITS) >>> 0;
  return Array.from({ length: 32 }, (_, bit) => (1 << bit) >>> 0)
    .filter((bit) => (unknown & bit) !== 0)
    .map((bit) => `0x${bit.toString(16)}`);
}
