// SPDX-License-Identifier: Apache-2.0
// Kernel messages built by hand, byte for byte as include/uapi/linux/cachefiles.h lays them out.

export interface OpenParts {
  readonly msgId?: number;
  readonly objectId?: number;
  readonly fd?: number;
  readonly volumeKey?: string;
  readonly cookieKey?: string;
}

export function openMessage(parts: OpenParts = {}): Uint8Array {
  const volume = Buffer.from(`${parts.volumeKey ?? "erofs,erofsd"}\0`);
  const cookie = Buffer.from(parts.cookieKey ?? "registry.example/app:v1");
  const fixed = Buffer.alloc(16);
  fixed.writeUInt32LE(volume.length, 0);
  fixed.writeUInt32LE(cookie.length, 4);
  fixed.writeInt32LE(parts.fd ?? 7, 8);
  return message(0, parts, Buffer.concat([fixed, volume, cookie]));
}

export function readMessage(parts: {
  msgId?: number;
  objectId?: number;
  offset?: bigint;
  length?: bigint;
}): Uint8Array {
  const data = Buffer.alloc(16);
  data.writeBigUInt64LE(parts.offset ?? 0n, 0);
  data.writeBigUInt64LE(parts.length ?? 4096n, 8);
  return message(2, parts, data);
}

export function closeMessage(parts: { msgId?: number; objectId?: number } = {}): Uint8Array {
  return message(1, parts, Buffer.alloc(0));
}

/** Any message: the header, with the right length, and `data` behind it. */
export function message(
  opcode: number,
  ids: { msgId?: number; objectId?: number },
  data: Uint8Array,
): Uint8Array {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(ids.msgId ?? 0, 0);
  header.writeUInt32LE(opcode, 4);
  header.writeUInt32LE(16 + data.length, 8);
  header.writeUInt32LE(ids.objectId ?? 1, 12);
  return new Uint8Array(Buffer.concat([header, data]));
}

/** `bytes` with the 32-bit little-endian number at `offset` replaced. */
export function patched(bytes: Uint8Array, offset: number, value: number): Uint8Array {
  const copy = Uint8Array.from(bytes);
  new DataView(copy.buffer).setInt32(offset, value | 0, true);
  return copy;
}
