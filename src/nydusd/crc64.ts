// SPDX-License-Identifier: Apache-2.0
// CRC-64/Jones (polynomial 0xad93d23594c935a9, reflected, without initial or final inversion):
// the checksum at the end of nydusd's state. "123456789" gives 0xe9c6d914c4b8d9ca.

/** The polynomial with its bits in reverse order. */
const REFLECTED = 0x95ac9329ac4bc9b5n;

let table: BigUint64Array | undefined;

export function crc64(bytes: Uint8Array): bigint {
  table ??= makeTable();
  let crc = 0n;
  for (const byte of bytes) {
    crc = (table[Number(crc & 0xffn) ^ byte] ?? 0n) ^ (crc >> 8n);
  }
  return crc;
}

function makeTable(): BigUint64Array {
  return BigUint64Array.from({ length: 256 }, (_, index) => {
    let value = BigInt(index);
    for (let bit = 0; bit < 8; bit += 1) {
      value = value & 1n ? (value >> 1n) ^ REFLECTED : value >> 1n;
    }
    return value;
  });
}
