// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { RafsChunkMap } from "../../../../src/image/rafs/chunk-map.ts";
import { makeBlob } from "../../../support/rafs-builder.ts";
import { buildNow } from "../../../support/rafs-decode.ts";

/** Three chunks in two zran slices. */
function madeMap(): RafsChunkMap {
  const chunk = { size: 3000, storedOffset: 0, storedBytes: 5, from: 0, isCompressed: true };
  const unit = { storedOffset: 11, storedBytes: 900, decodedBytes: 9000 };
  return buildNow(
    makeBlob({
      joining: "zran",
      units: [unit, { ...unit, dictionaryBytes: 3, byte: 0xf3, bits: 5 }],
      dictionaries: Uint8Array.of(7, 8, 9),
      chunks: [0, 0, 1].map((of) => ({ ...chunk, unit: of })),
    }),
  );
}

describe("a chunk map's file", () => {
  it("is read back from any place in memory", () => {
    const map = madeMap();
    const file = Buffer.concat(map.serialize());
    const all = { offset: 0, length: map.sizeBytes };
    for (const shift of [0, 1, 4, 8]) {
      const bytes = new Uint8Array(file.length + shift).subarray(shift);
      bytes.set(file);
      const again = RafsChunkMap.deserialize(bytes, "x");
      expect(again.units(all)).toEqual(map.units(all));
    }
  });

  it("is refused when it is another, cut or of another version", () => {
    const file = Uint8Array.from(Buffer.concat(madeMap().serialize()));
    const change = (at: number, value: number): Uint8Array => {
      const copy = Uint8Array.from(file);
      copy[at] = value;
      return copy;
    };
    expect(() => RafsChunkMap.deserialize(change(0, 0), "x")).toThrow(/no chunk map/);
    expect(() => RafsChunkMap.deserialize(change(4, 9), "x")).toThrow(/version 9/);
    expect(() => RafsChunkMap.deserialize(change(8, 3), "x")).toThrow(/its header/);
    expect(() => RafsChunkMap.deserialize(change(24, 4), "x")).toThrow(/by its header/);
    expect(() => RafsChunkMap.deserialize(file.subarray(0, 100), "x")).toThrow(/cut: 100/);
    expect(() => RafsChunkMap.deserialize(file.subarray(0, -1), "x")).toThrow(/by its header/);
  });
});
