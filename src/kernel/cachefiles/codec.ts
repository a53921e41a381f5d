// SPDX-License-Identifier: Apache-2.0
// The cachefiles on-demand protocol as bytes: messages the kernel sends, commands it takes.
// Pure functions. Source: Linux include/uapi/linux/cachefiles.h and
// Documentation/filesystems/caching/cachefiles.rst ("On-demand Read"); limits as seen on
// 6.1 and 6.12 (kernel-notes/cachefiles-messages.md). All fields are native-endian, and every
// platform we run on is little-endian.

import { BLOCK_BYTES, type Extent } from "../../units.ts";

/** CACHEFILES_MSG_MAX_SIZE: a read buffer of this size takes any message. */
export const MESSAGE_BYTES_MAX = 1024;
/** `_IOW(0x98, 1, int)`: answers a READ; its argument is the msg_id itself. */
export const IOC_READ_COMPLETE = 0x40049801;

export const OPCODE = { open: 0, close: 1, read: 2 } as const;

const HEADER_BYTES = 16;
const OPEN_FIXED_BYTES = 32;
const READ_BYTES = 32;

export interface OpenMessage {
  readonly kind: "open";
  readonly msgId: number;
  readonly objectId: number;
  /** The anonymous fd, already installed in this process. */
  readonly anonFd: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
}

export interface ReadMessage {
  readonly kind: "read";
  readonly msgId: number;
  readonly objectId: number;
  readonly extent: Extent;
}

export interface CloseMessage {
  readonly kind: "close";
  readonly msgId: number;
  readonly objectId: number;
}

/**
 * A message that cannot be served. Whatever could still be read of it is given, so that the
 * request can be failed and its fd closed; the device itself goes on.
 */
export interface MalformedMessage {
  readonly kind: "malformed";
  readonly opcode: number | undefined;
  readonly msgId: number | undefined;
  readonly objectId: number | undefined;
  readonly anonFd: number | undefined;
  readonly reason: string;
}

export type Message = OpenMessage | ReadMessage | CloseMessage | MalformedMessage;

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Parses one message; `bytes` is exactly what one read of the device returned. Never throws. */
export function parseMessage(bytes: Uint8Array): Message {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < HEADER_BYTES) {
    return malformed({}, `${bytes.byteLength} bytes, shorter than a header (${HEADER_BYTES})`);
  }
  const header = {
    msgId: view.getUint32(0, true),
    opcode: view.getUint32(4, true),
    objectId: view.getUint32(12, true),
  };
  const length = view.getUint32(8, true);
  if (length !== bytes.byteLength) {
    return malformed(header, `its length field says ${length}, the read gave ${bytes.byteLength}`);
  }
  switch (header.opcode) {
    case OPCODE.open:
      return parseOpen(view, header);
    case OPCODE.read:
      return parseRead(view, header);
    case OPCODE.close:
      return length === HEADER_BYTES
        ? { kind: "close", msgId: header.msgId, objectId: header.objectId }
        : malformed(header, `a CLOSE of ${length} bytes, not ${HEADER_BYTES}`);
    default:
      return malformed(header, `unknown opcode ${header.opcode}`);
  }
}

interface Header {
  readonly msgId: number;
  readonly opcode: number;
  readonly objectId: number;
}

function parseOpen(view: DataView, header: Header): Message {
  if (view.byteLength < OPEN_FIXED_BYTES) {
    return malformed(header, `an OPEN of ${view.byteLength} bytes, at least ${OPEN_FIXED_BYTES}`);
  }
  const volumeKeyBytes = view.getUint32(16, true);
  const cookieKeyBytes = view.getUint32(20, true);
  const withFd = { ...header, anonFd: view.getInt32(24, true) };
  if (withFd.anonFd < 0) return malformed(header, `an OPEN with fd ${withFd.anonFd}`);
  if (volumeKeyBytes < 2 || cookieKeyBytes < 1) {
    return malformed(withFd, "an OPEN with an empty key");
  }
  if (OPEN_FIXED_BYTES + volumeKeyBytes + cookieKeyBytes !== view.byteLength) {
    return malformed(
      withFd,
      `an OPEN of ${view.byteLength} bytes with keys of ${volumeKeyBytes} and ${cookieKeyBytes}`,
    );
  }
  // The volume key's size counts its NUL, the cookie key's has none.
  if (view.getUint8(OPEN_FIXED_BYTES + volumeKeyBytes - 1) !== 0) {
    return malformed(withFd, "an OPEN whose volume key does not end with NUL");
  }
  const volumeKey = decodeKey(view, OPEN_FIXED_BYTES, volumeKeyBytes - 1);
  const cookieKey = decodeKey(view, OPEN_FIXED_BYTES + volumeKeyBytes, cookieKeyBytes);
  if (volumeKey === undefined || cookieKey === undefined) {
    return malformed(withFd, "an OPEN with a key that is not UTF-8 or holds a NUL");
  }
  const { msgId, objectId } = header;
  return { kind: "open", msgId, objectId, anonFd: withFd.anonFd, volumeKey, cookieKey };
}

function decodeKey(view: DataView, offset: number, length: number): string | undefined {
  try {
    const key = utf8.decode(new Uint8Array(view.buffer, view.byteOffset + offset, length));
    return key.includes("\0") ? undefined : key;
  } catch {
    return undefined;
  }
}

function parseRead(view: DataView, header: Header): Message {
  if (view.byteLength !== READ_BYTES) {
    return malformed(header, `a READ of ${view.byteLength} bytes, not ${READ_BYTES}`);
  }
  const offset = Number(view.getBigUint64(16, true));
  const length = Number(view.getBigUint64(24, true));
  if (!Number.isSafeInteger(offset + length)) {
    return malformed(header, `a READ of ${length} bytes at ${offset}, past 2^53`);
  }
  if (length === 0 || offset % BLOCK_BYTES !== 0 || length % BLOCK_BYTES !== 0) {
    return malformed(header, `a READ of ${length} bytes at ${offset}, not whole 4 KiB blocks`);
  }
  const { msgId, objectId } = header;
  return { kind: "read", msgId, objectId, extent: { offset, length } };
}

function malformed(
  known: { msgId?: number; opcode?: number; objectId?: number; anonFd?: number },
  reason: string,
): MalformedMessage {
  return {
    kind: "malformed",
    opcode: known.opcode,
    msgId: known.msgId,
    objectId: known.objectId,
    anonFd: known.anonFd,
    reason,
  };
}

/** Answers an OPEN. `result` is the object's size in bytes, or -1..-4095 to fail it. */
export function encodeCopen(msgId: number, result: number): Uint8Array {
  if (!Number.isSafeInteger(result) || result < -4095) {
    throw new RangeError(`copen: result ${result} is neither a size nor a negative errno`);
  }
  return encodeCommand(`copen ${msgId},${result}`);
}

/** One device command; the kernel takes one per write and refuses more than 4095 bytes. */
export function encodeCommand(command: string): Uint8Array {
  const bytes = new TextEncoder().encode(command);
  if (bytes.byteLength === 0 || bytes.byteLength > 4095) {
    throw new RangeError(`a cachefiles command has 1 to 4095 bytes, not ${bytes.byteLength}`);
  }
  return bytes;
}
