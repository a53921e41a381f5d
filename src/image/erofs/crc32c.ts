// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli), reflected, without the final inversion: the form EROFS keeps in its
// superblock. For a few KiB at a mount, never for file data.

const POLYNOMIAL_REFLECTED = 0x82f63b78;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) {
    value = (value & 1) === 1 ? (value >>> 1) ^ POLYNOMIAL_REFLECTED : value >>> 1;
  }
  return value;
});

/** Continues `crc` (start with 0xffffffff) over `bytes`; an unsigned 32-bit number. */
export function crc32c(crc: number, bytes: Uint8Array): number {
  let value = crc;
  for (const byte of bytes) value = (TABLE[(value ^ byte) & 0xff] ?? 0) ^ (value >>> 8);
  return value >>> 0;
}
