// SPDX-License-Identifier: Apache-2.0
// A blob that begins like an EROFS image: a superblock, and a device table behind it. Enough for
// whoever looks at an image before it is mounted. Source: fs/erofs/erofs_fs.h.

import { patternBytes } from "./flow-rig.ts";

const SUPERBLOCK = 1024;
const TABLE = 2048;

export interface HeadOptions {
  /** The tags of its device slots. */
  readonly tags?: readonly string[];
  readonly compressed?: boolean;
  /** Makes two images differ. */
  readonly salt?: number;
  readonly blocks?: number;
}

export function erofsBlob(options: HeadOptions = {}): Uint8Array {
  const { tags = [], compressed = false, salt = 1, blocks = 4 } = options;
  const bytes = patternBytes(blocks * 4096, salt);
  bytes.fill(0, 0, 4096);
  const view = new DataView(bytes.buffer);
  view.setUint32(SUPERBLOCK, 0xe0f5e1e2, true);
  view.setUint8(SUPERBLOCK + 12, 12);
  view.setUint32(SUPERBLOCK + 36, blocks, true);
  view.setUint32(SUPERBLOCK + 80, tags.length > 0 ? 0x8 : 0, true);
  view.setUint16(SUPERBLOCK + 84, compressed ? 1 : 0, true);
  view.setUint16(SUPERBLOCK + 86, tags.length, true);
  view.setUint16(SUPERBLOCK + 88, TABLE / 128, true);
  for (const [index, tag] of tags.entries()) {
    bytes.set(new TextEncoder().encode(tag.slice(0, 64)), TABLE + index * 128);
    view.setUint32(TABLE + index * 128 + 64, 1, true);
  }
  return bytes;
}
