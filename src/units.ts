// SPDX-License-Identifier: Apache-2.0
// The few quantities every room shares: extents, blocks, digests.
// An extent is a half-open range of bytes, { offset, length }; inclusive ends
// exist only inside source/registry/range-request.ts.

declare const tag: unique symbol;
type Tagged<T, N extends string> = T & { readonly [tag]: N };

/** A content digest as OCI writes it: `sha256:` and 64 lower-case hex digits. */
export type Digest = Tagged<string, "content digest">;

/** A half-open range of bytes: `offset >= 0`, `length >= 0`, both safe integers. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/** `demand`: a reader is blocked by it. `ahead`: one will be soon. `prefetch`: nobody has asked. */
export type Urgency = "demand" | "ahead" | "prefetch";

/** What the kernel caches and asks for: 4 KiB. Every write to a cache file is a multiple of it. */
export const BLOCK_BYTES = 4096;

export const KIB = 1024;
export const MIB = 1024 * 1024;
export const GIB = 1024 * MIB;

export function alignDown(value: number, step: number): number {
  return value - (value % step);
}

export function alignUp(value: number, step: number): number {
  const rest = value % step;
  return rest === 0 ? value : value + (step - rest);
}

export function extentEnd(extent: Extent): number {
  return extent.offset + extent.length;
}

export function overlaps(a: Extent, b: Extent): boolean {
  return a.offset < extentEnd(b) && b.offset < extentEnd(a);
}

const SHA256 = /^sha256:[0-9a-f]{64}$/;

/** True for `sha256:<64 hex>`, the only digest algorithm registries of EROFS images use. */
export function isDigest(text: string): text is Digest {
  return SHA256.test(text);
}
