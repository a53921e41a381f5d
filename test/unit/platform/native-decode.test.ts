// SPDX-License-Identifier: Apache-2.0
// native.ts over the real addon: decodes, their faults, and their order.

import { constants } from "node:os";
import { deflateRawSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { KIB, MIB } from "../../../src/units.ts";
import { faultFrom } from "../../support/faults.ts";
import { DeflateBits, lz4Block, zstdFrame } from "./compress.ts";
import { sample } from "./decoding.ts";

let native: Native;
beforeAll(() => {
  native = loadNative({ writerThreads: 1 });
});
afterAll(() => native.destroy());

describe("decode", () => {
  const text = Buffer.from("as it was ".repeat(5000));
  const source = deflateRawSync(text);
  const unit = (target: Uint8Array, sourceLength = source.length) =>
    native.decode({
      codec: "inflate",
      source,
      sourceOffset: 0,
      sourceLength,
      decodedBytes: text.length,
      target,
      pieces: Uint32Array.of(0, 100, 4096, 100, text.length - 100, 8192),
    });

  test("puts a unit's pieces in place", async () => {
    const target = native.allocateAligned(64 * KIB).fill(1);
    await unit(target);
    expect(Buffer.compare(target.subarray(4096, 4196), text.subarray(0, 100))).toBe(0);
    expect(target.subarray(4196, 8192).every((byte) => byte === 0)).toBe(true);
    expect(
      Buffer.compare(target.subarray(8192, 8192 + text.length - 100), text.subarray(100)),
    ).toBe(0);
  });

  test("takes the codecs by name, and a start inside a deflate stream", async () => {
    const target = native.allocateAligned(64 * KIB);
    const pieces = Uint32Array.of(0, text.length, 0);
    const job = { sourceOffset: 0, decodedBytes: text.length, target, pieces };
    for (const [codec, bytes] of [
      ["none", text],
      ["lz4_block", lz4Block(text)],
      ["zstd", zstdFrame(text)],
    ] as const) {
      target.fill(1);
      await native.decode({ ...job, codec, source: bytes, sourceLength: bytes.length });
      expect(Buffer.compare(target.subarray(0, text.length), text)).toBe(0);
    }
    const stream = new DeflateBits();
    stream.block([65, 66, 67]);
    const { bits } = stream;
    stream.block([33], { final: true, distance: 3 });
    const bytes = stream.bytes();
    const at = Math.ceil(bits / 8);
    await native.decode({
      codec: "inflate",
      source: bytes,
      sourceOffset: at,
      sourceLength: bytes.length - at,
      decodedBytes: 4,
      start: { dictionary: Buffer.from("ABC"), bits: at * 8 - bits, byte: bytes[at - 1] ?? 0 },
      target,
      pieces: Uint32Array.of(0, 4, 0),
    });
    expect(Buffer.from(target.subarray(0, 4)).toString()).toBe("!BC!");
  });

  test("rejects what does not decode with EBADMSG, and what is out of bounds", async () => {
    const target = native.allocateAligned(64 * KIB);
    const fault = await faultFrom(unit(target, source.length - 9));
    expect(fault).toMatchObject({ code: "syscall_failed", syscall: "decode", errno: 74 });
    expect(fault).toMatchObject({ errnoName: "EBADMSG" });
    await expect(unit(target.subarray(0, 4096))).rejects.toThrow(RangeError);
    await expect(unit(target, source.length + 1)).rejects.toThrow(RangeError);
  });

  test("beyond the addon's queue jobs wait their turn; destroy ends them", async () => {
    const narrow = loadNative({ writerThreads: 1, decoderThreads: 1, queueMax: 1 });
    const order: number[] = [];
    const large = Buffer.alloc(4 * MIB, text);
    const packed = deflateRawSync(large, { level: 1 });
    const target = native.allocateAligned(large.length);
    const job = async (i: number) => {
      await narrow.decode({
        codec: "inflate",
        source: packed,
        sourceOffset: 0,
        sourceLength: packed.length,
        decodedBytes: large.length,
        target,
        pieces: Uint32Array.of(0, large.length, 0),
      });
      order.push(i);
    };
    await Promise.all(Array.from({ length: 20 }, (_, i) => job(i)));
    expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i));
    const late = Promise.allSettled(Array.from({ length: 20 }, (_, i) => job(i)));
    await narrow.destroy();
    const rejected = (await late).filter(({ status }) => status === "rejected");
    expect(rejected.length).toBeGreaterThan(10);
    expect(rejected[0]).toMatchObject({ reason: { fault: { errnoName: "ECANCELED" } } });
  });
});

describe("units in company", () => {
  test("are decoded each to its own end, and one that is damaged fails alone", async () => {
    const parts = [sample(5000), sample(4096), sample(100)];
    const stored = parts.map((part, n) => (n === 1 ? part : lz4Block(part)));
    const source = Buffer.concat(stored);
    const lengths = stored.map(({ length }) => length);
    const target = new Uint8Array(4 * 4096).fill(0xee);
    const places = [0, 8192, 12_288];
    const units = parts.map((part, n) => ({
      codec: n === 1 ? ("none" as const) : ("lz4_block" as const),
      sourceOffset: lengths.slice(0, n).reduce((sum, length) => sum + length, 0),
      sourceLength: lengths[n] ?? 0,
      decodedBytes: n === 2 ? part.length + 1 : part.length,
      pieces: Uint32Array.of(0, part.length, places[n] ?? 0),
    }));
    const results = await native.decodeMany({ source, target, units });
    expect([...results]).toEqual([0, 0, -constants.errno.EBADMSG]);
    expect(Buffer.compare(target.subarray(0, 5000), parts[0] ?? target)).toBe(0);
    expect(target.subarray(5000, 8192).every((byte) => byte === 0)).toBe(true);
    expect(Buffer.compare(target.subarray(8192, 12_288), parts[1] ?? target)).toBe(0);
  });

  test.each([
    ["past the source", { sourceOffset: 4000 }],
    ["to nothing", { decodedBytes: 0 }],
    ["past the target", { pieces: Uint32Array.of(0, 4096, 4096) }],
  ])("%s: refused, and nothing is decoded", async (_name, change) => {
    const unit = {
      codec: "none" as const,
      sourceOffset: 0,
      sourceLength: 4096,
      decodedBytes: 4096,
      pieces: Uint32Array.of(0, 4096, 0),
    };
    const target = new Uint8Array(4096).fill(1);
    const source = new Uint8Array(4096);
    const batch = { source, target, units: [unit, { ...unit, ...change }] };
    await expect(native.decodeMany(batch)).rejects.toThrow(RangeError);
    expect(target.every((byte) => byte === 1)).toBe(true);
  });
});
