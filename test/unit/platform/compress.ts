// SPDX-License-Identifier: Apache-2.0
// Stored bytes for the decoder's tests: the system's zstd and lz4 through their own functions, and
// a deflate stream put together bit by bit, so that its blocks begin at whichever bit is wanted.

import ffi from "ffi-napi";
import ref from "ref-napi";

const zstd = ffi.Library("libzstd.so.1", {
  ZSTD_compress: ["size_t", ["size_t", "size_t", "size_t", "size_t", "int"]],
});
const lz4 = ffi.Library("liblz4.so.1", {
  LZ4_compress_default: ["int", ["size_t", "size_t", "int", "int"]],
});

/** What C reads and writes just now: an address alone keeps no buffer from being collected. */
const inUse = new Set<Buffer>();

const boundOf = (bytes: Uint8Array): number => bytes.length + (bytes.length >> 6) + 1024;

export function zstdFrame(bytes: Uint8Array, level = 3): Buffer {
  const from = Buffer.from(bytes);
  const to = Buffer.alloc(boundOf(bytes));
  inUse.add(from).add(to);
  const pointers = [ref.address(to), to.length, ref.address(from), from.length] as const;
  const length = Number(zstd.ZSTD_compress(...pointers, level));
  inUse.clear();
  return to.subarray(0, length);
}

export function lz4Block(bytes: Uint8Array): Buffer {
  const from = Buffer.from(bytes);
  const to = Buffer.alloc(boundOf(bytes));
  inUse.add(from).add(to);
  const pointers = [ref.address(from), ref.address(to)] as const;
  const length = lz4.LZ4_compress_default(...pointers, from.length, to.length);
  inUse.clear();
  return to.subarray(0, length);
}

/** Deflate blocks with the fixed codes of RFC 1951, section 3.2.6. */
export class DeflateBits {
  readonly #bytes: number[] = [];
  /** Bits written so far. */
  bits = 0;
  /** What the bits decode to. */
  readonly decoded: number[] = [];

  /** One block of literals; `distance` adds a copy of 3 bytes from that far behind at its end. */
  block(literals: readonly number[], options: { final?: boolean; distance?: number } = {}): void {
    this.#lowFirst(options.final === true ? 1 : 0, 1);
    this.#lowFirst(1, 2);
    for (const literal of literals) {
      if (literal < 144) this.#highFirst(0x30 + literal, 8);
      else this.#highFirst(0x190 + literal - 144, 9);
      this.decoded.push(literal);
    }
    if (options.distance !== undefined) this.#copyThree(options.distance);
    this.#highFirst(0, 7);
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  #copyThree(distance: number): void {
    this.#highFirst(1, 7);
    let code = 0;
    let base = 1;
    let extra = 0;
    while (base + 2 ** extra <= distance) {
      base += 2 ** extra;
      code += 1;
      extra = code < 4 ? 0 : (code >> 1) - 1;
    }
    this.#highFirst(code, 5);
    this.#lowFirst(distance - base, extra);
    for (let i = 0; i < 3; i += 1) this.decoded.push(this.decoded.at(-distance) ?? 0);
  }

  #lowFirst(value: number, count: number): void {
    for (let i = 0; i < count; i += 1) this.#bit((value >> i) & 1);
  }

  #highFirst(value: number, count: number): void {
    for (let i = count - 1; i >= 0; i -= 1) this.#bit((value >> i) & 1);
  }

  #bit(bit: number): void {
    const at = this.bits >> 3;
    this.#bytes[at] = (this.#bytes[at] ?? 0) | (bit << (this.bits & 7));
    this.bits += 1;
  }
}
