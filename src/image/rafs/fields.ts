// SPDX-License-Identifier: Apache-2.0
// Fixed fields of RAFS structures, all little-endian, and the two ways to refuse what is in them.
// Numbers of 64 bits are checked once, here, against what a number can hold.

import { DaemonError } from "../../errors.ts";
import type { Extent } from "../../units.ts";

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A u64 that must be a safe integer; `what` names it in the fault. */
export function u64At(view: DataView, offset: number, what: string, where: string): number {
  const value = view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true);
  if (!Number.isSafeInteger(value)) throw invalid(where, `${what} is larger than 2^53`);
  return value;
}

/** A fixed text field: up to its first NUL, or all of it; one character a byte. */
export function textOf(field: Uint8Array): string {
  const end = field.indexOf(0);
  return String.fromCharCode(...field.subarray(0, end === -1 ? field.length : end));
}

/** Undefined for a digest of zeros, which says that there is none. */
export function digestHexOf(field: Uint8Array): string | undefined {
  return field.every((byte) => byte === 0) ? undefined : hexOf(field);
}

export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A field's value or bits as people write them. */
export function asHex(value: number): string {
  return `0x${(value >>> 0).toString(16)}`;
}

export function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

/** Both ends are safe integers, so no sum here can round. */
export function liesWithin(extent: Extent, sizeBytes: number): boolean {
  return extent.offset <= sizeBytes && extent.length <= sizeBytes - extent.offset;
}

/** The file contradicts itself or its format. */
export function invalid(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_invalid", where, detail });
}

/** The file may be sound, but it is of a kind that is not served. */
export function unsupported(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_unsupported", where, detail });
}
