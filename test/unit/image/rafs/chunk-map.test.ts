// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import type { RafsChunkMap } from "../../../../src/image/rafs/chunk-map.ts";
import { type Extent, KIB, MIB } from "../../../../src/units.ts";
import {
  type MadeBlobOptions,
  MADE_ID,
  makeBlob,
  madeDigest,
} from "../../../support/rafs-builder.ts";
import { buildNow } from "../../../support/rafs-decode.ts";

const WIDE = { logicalBytesMax: MIB * 1024, storedBytesMax: MIB * 1024 };

function built(options: MadeBlobOptions): RafsChunkMap {
  return buildNow(makeBlob(options));
}

function refusal(options: MadeBlobOptions): string {
  try {
    return `built ${built(options).chunkCount}`;
  } catch (error) {
    return String(error);
  }
}

function extent(offset: number, end: number): Extent {
  return { offset, length: end - offset };
}

const ORDINARY = [
  { size: 5000, storedOffset: 10, storedBytes: 300 },
  { size: 4096, storedOffset: 310, storedBytes: 4096 },
  { size: 1, storedOffset: 5000, storedBytes: 20 },
  { size: 16 * MIB, storedOffset: 6000, storedBytes: 16 * MIB },
];

describe("ordinary chunks", () => {
  it.each([1, 2] as const)("are read from chunk infos of version %d", (version) => {
    // In version 2 the stored size has 24 bits, not less one: 16 MiB do not fit.
    const chunks = ORDINARY.slice(0, version === 1 ? 4 : 3).map((chunk) => ({
      ...chunk,
      isCompressed: chunk.size !== chunk.storedBytes,
    }));
    const map = built({ chunks, version });
    const units = map.units(extent(0, map.sizeBytes));
    expect(units.map(({ stored }) => stored)).toEqual(
      chunks.map(({ storedOffset, storedBytes }) => ({
        offset: storedOffset,
        length: storedBytes,
      })),
    );
    expect(units.map(({ codec }) => codec)).toEqual(
      chunks.map(({ isCompressed }) => (isCompressed ? "zstd" : "none")),
    );
    expect(units.map(({ pieces }) => pieces)).toEqual(
      [0, 8192, 12_288, 16_384]
        .slice(0, chunks.length)
        .map((offset, index) => [
          { offset, from: 0, length: chunks[index]?.size, digest: madeDigest(index) },
        ]),
    );
  });

  it("are units of their own", () => {
    const map = built({ chunks: ORDINARY });
    expect(map.widen({ offset: 4097, length: 1 })).toEqual(extent(0, 8192));
    expect(map.widen({ offset: 8191, length: 2 })).toEqual(extent(0, 12_288));
    expect(map.widen({ offset: 12_288, length: 0 })).toEqual(extent(12_288, 16_384));
    const all = extent(0, map.sizeBytes);
    expect(map.cut(all, WIDE)).toEqual(all);
    expect(map.cut(all, { ...WIDE, logicalBytesMax: 16_000 })).toEqual(extent(0, 12_288));
    expect(map.cut(all, { ...WIDE, storedBytesMax: 4396 })).toEqual(extent(0, 12_288));
    expect(map.cut(all, { ...WIDE, storedBytesMax: 4395 })).toEqual(extent(0, 8192));
    const last = extent(16_384, map.sizeBytes);
    expect(map.cut(last, { logicalBytesMax: 1, storedBytesMax: 1 })).toEqual(last);
    expect(map.stored(extent(8192, 16_384))).toEqual(extent(310, 5020));
  });

  it.each<[string, Partial<MadeBlobOptions>, RegExp]>([
    [
      "a gap",
      { chunks: [{ size: 1, storedOffset: 0, storedBytes: 1, deviceOffset: 4096 }] },
      /chunk 0 .* begin/,
    ],
    ["a short device", { chunks: ORDINARY, sizeBytes: 20_480 }, /no chunk that|chunk 3/],
    [
      "a longer device",
      { chunks: ORDINARY.slice(0, 2), sizeBytes: 20_480 },
      /chunk 1 .* ends at byte/,
    ],
    ["data behind the end", { chunks: ORDINARY.slice(0, 2), dataEnd: 4000 }, /chunk 1 .* outside/],
    [
      "stored offsets that go back",
      { chunks: [...ORDINARY.slice(1, 2), ...ORDINARY.slice(0, 1)] },
      /chunk 1 .* stored before/,
    ],
    [
      "compression without a codec",
      { chunks: ORDINARY, codec: "none" },
      /chunk 0 .* without a codec/,
    ],
    ["a gzip each", { chunks: ORDINARY, codec: "gzip" }, /chunk 0 .* gzip of its own/],
    [
      "a plain chunk of another size",
      { version: 2, chunks: [{ size: 9, storedOffset: 0, storedBytes: 8 }] },
      /chunk 0 .* 8 stored bytes for 9/,
    ],
  ])("are refused for %s", (_, options, text) => {
    expect(refusal({ chunks: [], ...options })).toMatch(text);
  });
});

const BATCH = {
  joining: "batch",
  units: [
    { storedBytes: 100, decodedBytes: 5000 },
    { storedBytes: 700, decodedBytes: 700 },
  ],
} as const;
const IN_BATCHES = [
  { size: 3000, storedOffset: 40, storedBytes: 0, unit: 0, from: 0, isCompressed: true },
  { size: 2000, storedOffset: 40, storedBytes: 0, unit: 0, from: 3000, isCompressed: true },
  { size: 9000, storedOffset: 140, storedBytes: 5000, isCompressed: true },
  { size: 700, storedOffset: 5140, storedBytes: 0, unit: 1, from: 0, isCompressed: true },
];

describe("batches", () => {
  it("are decoded whole, and as it is when it did not get smaller", () => {
    const map = built({ ...BATCH, chunks: IN_BATCHES });
    expect(map.widen({ offset: 4096, length: 1 })).toEqual(extent(0, 8192));
    const units = map.units(extent(0, map.sizeBytes));
    expect(
      units.map(({ codec, stored, decodedBytes }) => [
        codec,
        stored.offset,
        stored.length,
        decodedBytes,
      ]),
    ).toEqual([
      ["zstd", 40, 100, 5000],
      ["zstd", 140, 5000, 9000],
      ["none", 5140, 700, 700],
    ]);
    expect(units[0]?.pieces.map(({ from, length }) => [from, length])).toEqual([
      [0, 3000],
      [3000, 2000],
    ]);
  });

  it("are served in part when part of them is not trusted", () => {
    const size = { storedBytes: 0, unit: 0, storedOffset: 0 };
    const chunks = [true, true, false, true, false].map((isReferenced, index) => {
      return { size: 1000, from: index * 1000, isReferenced, ...size };
    });
    const map = built({ ...BATCH, chunks, units: [{ storedBytes: 99, decodedBytes: 5000 }] });
    const block = 4 * KIB;
    const all = extent(0, 5 * block);
    expect(map.widen({ offset: 0, length: 1 })).toEqual(extent(0, 2 * block));
    expect(map.widen({ offset: 2 * block, length: 1 })).toEqual(extent(2 * block, 3 * block));
    expect(map.widen({ offset: block, length: 3 * block })).toEqual(extent(0, 4 * block));
    expect(map.cut(all, WIDE)).toEqual(extent(0, 2 * block));
    expect(map.cut(extent(2 * block, 5 * block), WIDE).length).toBe(0);
    expect(map.cut(extent(3 * block, 5 * block), WIDE)).toEqual(extent(3 * block, 4 * block));
    // Never a gap between two pieces.
    const units = map.units(all);
    expect(units.map(({ pieces }) => pieces.map(({ from }) => from))).toEqual([[0, 1000], [3000]]);
  });

  it.each<[string, Partial<MadeBlobOptions>, RegExp]>([
    [
      "a member behind its end",
      { units: [{ storedBytes: 100, decodedBytes: 4999 }, BATCH.units[1]] },
      /chunk 1 .* behind its unit 0/,
    ],
    [
      "too much in it",
      { units: [{ storedBytes: 100, decodedBytes: 17 * MIB }, BATCH.units[1]] },
      /chunk 0 .* 17825792 bytes/,
    ],
    ["too few contexts", { units: [BATCH.units[0]] }, /chunk 3 .* unit 1 of 1/],
    [
      "too many contexts",
      { units: Array.from({ length: 5 }, () => BATCH.units[0]) },
      /5 contexts for 4 chunks/,
    ],
    ["no codec", { codec: "none" }, /without a codec/],
    ["data behind the end", { dataEnd: 5500 }, /chunk 3 .* outside the blob's data/],
    [
      "a place in two",
      {
        chunks: IN_BATCHES.map((chunk, at) => (at === 1 ? { ...chunk, storedOffset: 41 } : chunk)),
      },
      /chunk 1 .* not stored where its batch 0/,
    ],
    [
      "a size of its own",
      { chunks: IN_BATCHES.map((chunk, at) => (at === 1 ? { ...chunk, storedBytes: 7 } : chunk)) },
      /chunk 1 .* a stored size of its own/,
    ],
    [
      "coming back",
      { chunks: IN_BATCHES.map((chunk, at) => (at === 3 ? { ...chunk, unit: 0 } : chunk)) },
      /chunk 3 .* goes back to unit 0/,
    ],
  ])("are refused for %s", (_, options, text) => {
    expect(refusal({ ...BATCH, chunks: IN_BATCHES, ...options })).toMatch(text);
  });
});

const SLICES = [
  { storedOffset: 11, storedBytes: 900, decodedBytes: 9000, byte: 0xaa },
  {
    storedOffset: 900,
    storedBytes: 500,
    decodedBytes: 8000,
    dictionaryBytes: 3,
    byte: 0xf3,
    bits: 5,
  },
];
const IN_SLICES = [
  { size: 3000, storedOffset: 11, storedBytes: 5, unit: 0, from: 512, isCompressed: true },
  { size: 3000, storedOffset: 700, storedBytes: 3000, unit: 0, from: 4096, isCompressed: true },
  { size: 5000, storedOffset: 901, storedBytes: 0, unit: 1, from: 1, isCompressed: true },
];
const ZRAN: MadeBlobOptions = {
  joining: "zran",
  units: SLICES,
  dictionaries: Uint8Array.of(7, 8, 9),
  dataEnd: 1400,
  chunks: IN_SLICES,
};

describe("zran slices", () => {
  it("begin where their contexts say, inside a byte, with their dictionary", () => {
    const map = built(ZRAN);
    const units = map.units(extent(0, map.sizeBytes));
    expect(
      units.map(({ codec, stored, decodedBytes, start }) => ({
        codec,
        stored,
        decodedBytes,
        start,
      })),
    ).toEqual([
      {
        codec: "inflate",
        stored: { offset: 11, length: 900 },
        decodedBytes: 9000,
        start: { dictionary: new Uint8Array(), bits: 0, byte: 0xaa },
      },
      {
        codec: "inflate",
        stored: { offset: 900, length: 500 },
        decodedBytes: 8000,
        start: { dictionary: Uint8Array.of(7, 8, 9), bits: 5, byte: 0xf3 },
      },
    ]);
    expect(map.stored(extent(0, map.sizeBytes))).toEqual(extent(11, 1400));
  });

  const second = (change: object): Partial<MadeBlobOptions> => ({
    units: SLICES.map((unit, at) => (at === 1 ? { ...unit, ...change } : unit)),
  });
  it.each<[string, Partial<MadeBlobOptions>, RegExp]>([
    ["input behind the end", { dataEnd: 1399 }, /chunk 2 .* unit 1, outside/],
    [
      "too much input",
      { ...second({ storedBytes: 33 * MIB }), dataEnd: 64 * MIB },
      /34603008 and 8000 bytes/,
    ],
    ["output over 16 MiB", second({ decodedBytes: 16 * MIB + 1 }), /16777217 bytes/],
    ["a dictionary that is not there", second({ dictionaryOffset: 1 }), /dictionary is not there/],
    [
      "a dictionary over 32 KiB",
      { ...second({ dictionaryBytes: 32_769 }), dictionaries: new Uint8Array(40_000) },
      /dictionary is not there/,
    ],
    ["8 bits", second({ bits: 8 }), /8 bits early/],
    ["inputs that go back", second({ storedOffset: 10 }), /stored too early/],
    ["a chunk behind the output", second({ decodedBytes: 5000 }), /chunk 2 .* behind its unit 1/],
  ])("are refused for %s", (_, options, text) => {
    expect(refusal({ ...ZRAN, ...options })).toMatch(text);
  });

  it("are served in parts of 8 MiB when tiny files fill more of the device", () => {
    const count = 5000;
    const tiny = { size: 10, storedBytes: 0, storedOffset: 0, unit: 0, isCompressed: true };
    const chunks = Array.from({ length: count }, (_, index) => ({ ...tiny, from: index * 10 }));
    const unit = { storedOffset: 0, storedBytes: 100, decodedBytes: count * 10 };
    const map = built({ joining: "zran", units: [unit], chunks });
    const parts = [];
    for (let at = 0; at < map.sizeBytes; ) {
      const part = map.widen({ offset: at + 4096, length: 1 });
      parts.push(part.length / MIB);
      expect(part.offset).toBe(at);
      at += part.length;
    }
    expect(parts.slice(0, 2)).toEqual([8, 8]);
    expect(parts).toHaveLength(3);
    const all = extent(0, map.sizeBytes);
    expect(map.cut(all, { ...WIDE, logicalBytesMax: 20 * MIB })).toEqual(all);
    expect(map.cut(all, { ...WIDE, logicalBytesMax: 17 * MIB })).toEqual(extent(0, 16 * MIB));
    expect(map.cut(all, { ...WIDE, logicalBytesMax: MIB })).toEqual(extent(0, 8 * MIB));
    // Decoded once, whatever the parts.
    expect(map.units(all).map(({ pieces }) => pieces.length)).toEqual([count]);
    const exact = built({ joining: "zran", units: [unit], chunks: chunks.slice(0, 2048) });
    expect(exact.widen({ offset: 0, length: 1 }).length).toBe(8 * MIB);
  });
});

describe("rows of other images", () => {
  const half = ORDINARY.map((chunk, index) => ({ ...chunk, isReferenced: index % 2 === 0 }));
  const SENTENCE = `of blob ${MADE_ID} contradicts what a trusted image says of it`;

  it("prove chunks that nothing proved", () => {
    const map = built({ chunks: half });
    expect([0, 1, 2, 3].map((index) => map.isTrusted(index))).toEqual([true, false, true, false]);
    expect(map.cut(extent(0, map.sizeBytes), WIDE)).toEqual(extent(0, 8192));
    const { rows } = makeBlob({ chunks: ORDINARY });
    expect(map.addRows(rows, "b")).toBe(true);
    expect(map.addRows(rows, "b")).toBe(false);
    expect(map.cut(extent(0, map.sizeBytes), WIDE)).toEqual(extent(0, map.sizeBytes));
    expect(Buffer.concat(map.serialize())).toEqual(
      Buffer.concat(built({ chunks: ORDINARY }).serialize()),
    );
  });

  it.each<[string, number, Partial<MadeBlobOptions>]>([
    ["digest", 0, { salt: 9 }],
    [
      "size",
      2,
      { chunks: ORDINARY.map((chunk, at) => (at === 2 ? { ...chunk, size: 2 } : chunk)) },
    ],
    [
      "device offset",
      1,
      {
        chunks: ORDINARY.map((chunk, at) =>
          at === 0 ? { ...chunk, size: 4096, isReferenced: false } : chunk,
        ),
      },
    ],
    [
      "place",
      1,
      { chunks: ORDINARY.map((chunk, at) => (at === 1 ? { ...chunk, storedOffset: 311 } : chunk)) },
    ],
  ])("are refused when they contradict it about a %s, and change nothing", (_, index, other) => {
    const map = built({ chunks: half });
    const before = Buffer.concat(map.serialize());
    const { rows } = makeBlob({ chunks: ORDINARY, ...other });
    expect(() => map.checkRows(rows, "b")).toThrow(`b: its chunk ${index} ${SENTENCE}`);
    expect(() => map.addRows(rows, "b")).toThrow(SENTENCE);
    expect(Buffer.concat(map.serialize()).equals(before)).toBe(true);
  });

  it("are refused for chunks that the blob has not", () => {
    const map = built({ chunks: ORDINARY.slice(0, 2) });
    expect(() => map.addRows(makeBlob({ chunks: ORDINARY }).rows, "b")).toThrow("its chunk 2");
    const { rows } = makeBlob({ chunks: ORDINARY });
    const short = makeBlob({ chunks: ORDINARY.slice(0, 3) });
    expect(() => buildNow({ ...short, rows })).toThrow("row for chunk 3");
  });

  it("must agree with the chunk infos they are merged with", () => {
    const made = makeBlob({ chunks: ORDINARY });
    const others = ORDINARY.map((chunk, at) => (at === 2 ? { ...chunk, size: 7 } : chunk));
    const { rows } = makeBlob({ chunks: others });
    expect(() => buildNow({ ...made, rows })).toThrow(`chunk 2 of blob ${MADE_ID}: its row`);
  });

  it("say nothing of how the device is cut", () => {
    const map = built({ chunks: ORDINARY });
    expect(map.sameLayout(built({ chunks: half, salt: 3 }))).toBe(true);
    expect(map.sameLayout(built({ chunks: ORDINARY.slice(0, 3) }))).toBe(false);
    const others = ORDINARY.map((chunk, at) => (at === 2 ? { ...chunk, size: 7 } : chunk));
    expect(map.sameLayout(built({ chunks: others }))).toBe(false);
  });
});
