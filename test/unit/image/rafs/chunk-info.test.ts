// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { parseChunkInfoHeader, splitBlobMeta } from "../../../../src/image/rafs/chunk-info.ts";
import { makeBlob } from "../../../support/rafs-builder.ts";

describe("the chunk info header", () => {
  const made = makeBlob({
    chunks: [1, 2, 3, 4].map((size) => ({ size, storedOffset: size * 10, storedBytes: 10 })),
  });
  it.each<[string, number, number]>([
    ["its magic", 0, 1],
    ["its second magic", 4092, 1],
    ["its features", 4, 0x20],
    ["its codec", 8, 1],
    ["its count", 12, 3],
    ["its size", 32, 9],
  ])("is refused for %s", (_, at, value) => {
    const header = Uint8Array.from(made.header);
    new DataView(header.buffer).setUint32(at, value, true);
    expect(() => parseChunkInfoHeader(header, made.blob, "x")).toThrow(/the chunk info header/);
  });

  it("may have the bit of an inlined bootstrap, which the blob's entry lacks", () => {
    const header = Uint8Array.from(made.header);
    header[4] = (header[4] ?? 0) | 2;
    expect(parseChunkInfoHeader(header, made.blob, "x").contextCount).toBe(0);
  });

  it("is the end of a bundled file, or all of it", () => {
    const whole = new Uint8Array(8192);
    whole.set(made.ci);
    whole.set(made.header, 4096);
    const { chunkInfo, header } = splitBlobMeta(whole, made.blob, "x");
    expect([chunkInfo, header]).toEqual([made.ci, made.header]);
    expect(splitBlobMeta(made.header, made.blob, "x").chunkInfo).toBeUndefined();
    whole[made.ci.length] = 1;
    expect(() => splitBlobMeta(whole, made.blob, "x")).toThrow(/other than zero/);
    expect(() => splitBlobMeta(whole.subarray(1), made.blob, "x")).toThrow(/8191 bytes/);
  });
});
