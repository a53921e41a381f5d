// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { parseBlobTable } from "../../../../src/image/rafs/blob-table.ts";
import {
  BOOTSTRAP_HEAD_BYTES,
  isRafsBootstrap,
  parseBootstrapHead,
} from "../../../../src/image/rafs/bootstrap.ts";
import { ChunkTableReader } from "../../../../src/image/rafs/chunk-table.ts";
import { bytesOf, parseFixture, readFixture } from "../../../support/rafs-fixtures.ts";

const SUPERBLOCK = 1024;
const EXTENDED = 1152;
const SLOT = 1408;

type Edit = (view: DataView, bytes: Uint8Array) => void;

const sound = readFixture("nydus").bootstrap;
const { bootstrap, blobs } = parseFixture(sound);

function edited(edit: Edit): Uint8Array {
  const bytes = Uint8Array.from(sound);
  edit(new DataView(bytes.buffer), bytes);
  return bytes;
}

function parseHead(bytes: Uint8Array, sizeBytes = bytes.length) {
  return parseBootstrapHead(bytes.subarray(0, BOOTSTRAP_HEAD_BYTES), sizeBytes, "it");
}

/** The fault's code and text, or what was parsed. */
function refusal(parse: () => unknown): string {
  try {
    return JSON.stringify(parse());
  } catch (error) {
    return String(error);
  }
}

const u32 = (at: number, value: number): Edit => {
  return (view) => {
    view.setUint32(at, value, true);
  };
};
const u8 = (at: number, value: number): Edit => {
  return (view) => {
    view.setUint8(at, value);
  };
};
const flags = bootstrap.flags;

describe("the head of a bootstrap", () => {
  it("says where its tables lie and which blobs it needs", () => {
    expect(bootstrap.chunkBytes).toBe(65_536);
    expect(bootstrap.deviceTags).toHaveLength(2);
    expect(bootstrap.blobTable.length).toBe(512);
    expect(bootstrap.chunkTable.length).toBe(85 * 80);
    expect([bootstrap.hasXattrs, bootstrap.hasBlobDigests]).toEqual([true, true]);
    expect(bootstrap.sizeBytes).toBe(sound.length);
  });

  it("is recognised by either magic, and a plain EROFS image is not", () => {
    const v5 = Uint8Array.of(0x53, 0x46, 0x41, 0x52, 0, 5, 0, 0);
    expect(isRafsBootstrap(v5)).toBe(true);
    expect(isRafsBootstrap(sound)).toBe(true);
    expect(isRafsBootstrap(edited(u32(SUPERBLOCK + 8, 0)))).toBe(false);
    expect(isRafsBootstrap(new Uint8Array(5))).toBe(false);
  });

  it.each<[string, Edit, RegExp]>([
    [
      "RAFS v5",
      (view) => (view.setUint32(0, 0x52414653, true), view.setUint32(4, 0x500, true)),
      /RAFS v5 bootstrap/,
    ],
    [
      "RAFS v4",
      (view) => (view.setUint32(0, 0x52414653, true), view.setUint32(4, 0x400, true)),
      /RAFS v4 bootstrap/,
    ],
    ["another magic", u32(SUPERBLOCK, 1), /magic is 0x1/],
    ["plain EROFS", u32(SUPERBLOCK + 8, 0), /plain EROFS/],
    ["a checksum", u32(SUPERBLOCK + 4, 1), /checksum/],
    ["tarfs blocks", u8(SUPERBLOCK + 12, 9), /tarfs/],
    ["other blocks", u8(SUPERBLOCK + 12, 13), /2\^13/],
    ["extension slots", u8(SUPERBLOCK + 13, 1), /extension slots/],
    ["compressed files", u32(SUPERBLOCK + 80, 0xd), /features are 0xd/],
    ["encryption", u32(EXTENDED, flags | 0x2000000), /encrypted/],
    ["the tarfs flag", u32(EXTENDED, flags | 0x200), /tarfs/],
    ["an unknown flag", u32(EXTENDED, flags | 0x800), /unknown here: 0x800/],
    ["an unknown high flag", u32(EXTENDED + 4, 4), /unknown here: 0x4 << 32/],
    ["two codecs", u32(EXTENDED, flags | 0x3), /one codec/],
    ["no digest", u32(EXTENDED, flags & ~0xc), /one digest/],
    ["small chunks", u32(EXTENDED + 20, 2048), /2048 bytes/],
    ["odd chunks", u32(EXTENDED + 20, 65_537), /65537 bytes/],
    ["too many devices", (view) => view.setUint16(SUPERBLOCK + 86, 255, true), /255 devices/],
    ["a missing device", (view) => view.setUint16(SUPERBLOCK + 86, 1, true), /1 devices, but 2/],
    ["a moved device table", (view) => view.setUint16(SUPERBLOCK + 88, 12, true), /byte 1536/],
    ["a blob table behind its end", u32(EXTENDED + 8, 1 << 30), /blob table is outside/],
    ["a blob table inside it", u32(EXTENDED + 8, 0), /blob table is outside/],
    ["an unaligned table", u32(EXTENDED + 24, bootstrap.chunkTable.offset - 8), /not aligned/],
    ["half a row", u32(EXTENDED + 32, 79), /79 bytes/],
    ["an offset of 2^60", u32(EXTENDED + 28, 1 << 28), /larger than 2\^53/],
    ["a long prefetch table", u32(EXTENDED + 48, 1 << 30), /prefetch table is outside/],
    ["no root", u32(SUPERBLOCK + 40, 0xffffffff), /root directory/],
  ])("is refused for %s", (_, edit, text) => {
    expect(refusal(() => parseHead(edited(edit)))).toMatch(text);
  });

  it("is refused when it is cut, but may be shorter than a head when the image is", () => {
    expect(refusal(() => parseHead(sound.subarray(0, 4096), sound.length))).toMatch(/cut: 4096/);
    expect(refusal(() => parseHead(sound, sound.length + 1))).toMatch(/whole blocks/);
    expect(refusal(() => parseHead(new Uint8Array(3)))).toMatch(/cut/);
    const empty = edited((view) => {
      view.setUint16(SUPERBLOCK + 86, 0, true);
      for (const at of [16, 32, 48]) view.setUint32(EXTENDED + at, 0, true);
      view.setUint32(SUPERBLOCK + 40, 0, true);
    });
    const head = parseHead(empty.subarray(0, 8192), 8192);
    expect(head.deviceTags).toEqual([]);
    expect(parseBlobTable(new Uint8Array(), head, "it")).toEqual([]);
    expect(new ChunkTableReader(head, [], "it").finish()).toEqual([]);
  });
});

describe("the blob table", () => {
  const table = bootstrap.blobTable.offset;
  const parse = (edit: Edit): string =>
    refusal(() => {
      const bytes = edited(edit);
      const head = parseHead(bytes);
      return parseBlobTable(bytesOf(bytes, head.blobTable), head, "it");
    });
  const bits = blobs[0]?.features.bits ?? 0;

  it("says of each blob what it is made with", () => {
    const [blob] = blobs;
    expect(blob).toMatchObject({
      index: 0,
      id: bootstrap.deviceTags[0],
      codec: "zstd",
      digester: "blake3",
      chunkCount: 86,
      chunkBytes: 65_536,
    });
    expect(blob?.features).toMatchObject({ toc: true, tarHeaders: true, batch: false });
    expect(blob?.dataEnd).toBe((blob?.chunkInfo.offset ?? 0) - 512);
    const [zran] = parseFixture(readFixture("nydus-zran").bootstrap).blobs;
    expect(zran).toMatchObject({ codec: "gzip", digester: "sha256" });
    expect(zran?.features).toMatchObject({ zran: true, separate: true, chunkInfoV2: true });
    expect(zran?.dataEnd).toBe(zran?.compressedSizeBytes);
    expect(zran?.metaDigest).toMatch(/^fa6b832f/);
    expect(zran?.metaBytes).toBe(23_201);
  });

  it.each<[string, Edit, RegExp]>([
    ["tarfs", u32(table + 84, bits | 0x40), /is a tarfs blob/],
    ["encryption", u32(table + 84, bits | 0x100), /is encrypted/],
    ["a cipher", u32(table + 216, 1), /cipher 1/],
    ["an external blob", u32(table + 84, bits | 0x800), /is an external blob/],
    ["an unknown feature", u32(table + 84, bits | 0x4000), /unknown features: 0x4000/],
    ["chunks that are not aligned", u32(table + 84, bits & ~1), /not aligned to 4096/],
    ["batches without v2", u32(table + 84, bits | 0x80), /without chunk infos of version 2/],
    ["batches in a gzip", u32(table + 84, bits | 0x9c), /both batch and zran/],
    ["zran without a meta blob", u32(table + 84, bits | 0xc), /not in a blob of its own/],
    ["legacy stargz", u32(table + 76, 2), /legacy stargz/],
    ["an unknown codec", u32(table + 76, 4), /unknown codec 4/],
    ["an unknown digest", u32(table + 80, 2), /unknown digest algorithm 2/],
    ["another index", u32(table + 64, 1), /says it is 1/],
    ["another chunk size", u32(table + 68, 4096), /chunks of 4096/],
    ["too many chunks", u32(table + 72, 1 << 24), /cannot have/],
    ["too few chunks", u32(table + 72, 1), /cannot have/],
    ["another size", u32(table + 96, 4096), /its device slot/],
    ["a huge blob", u32(table + 92, 1 << 9), /over 1 TiB/],
    ["ci of another codec", u32(table + 108, 2), /in gzip/],
    ["ci that grows", u32(table + 120, 1 << 20), /stored and/],
    ["ci of another size", u32(table + 128, 80), /chunk info of|bytes of ci/],
    ["ci at the blob's start", u32(table + 112, 512), /no room for data/],
    ["an id that is none", u8(table + 3, 0x67), /not 64 hex/],
    ["no id yet", (_, bytes) => bytes.fill(0x78, table, table + 64), /xxxx/],
    ["another tag", u8(SLOT, 0x30), /not tagged/],
    [
      "the same blob twice",
      (_, bytes) => {
        bytes.copyWithin(SLOT + 128, SLOT, SLOT + 128);
        bytes.copyWithin(table + 256, table, table + 256);
        bytes[table + 256 + 64] = 1;
      },
      /have one id/,
    ],
  ])("is refused for %s", (_, edit, text) => {
    expect(parse(edit)).toMatch(text);
  });
});

describe("the chunk table", () => {
  const table = bytesOf(sound, bootstrap.chunkTable);
  const read = (edit: Edit, pieces: (bytes: Uint8Array) => Uint8Array[] = (all) => [all]): string =>
    refusal(() => {
      const bytes = Uint8Array.from(table);
      edit(new DataView(bytes.buffer), bytes);
      const reader = new ChunkTableReader(bootstrap, blobs, "it");
      for (const piece of pieces(bytes)) reader.push(piece);
      return reader.finish().length;
    });

  it.each<[string, Edit, RegExp]>([
    ["nothing", () => undefined, /^2$/],
    ["an encrypted row", u32(36, 4), /is encrypted/],
    ["a hole", u32(36, 2), /unknown flags: 0x2/],
    ["a blob that is not there", u32(32, 2), /no chunk that there can be/],
    ["a chunk that is not there", u32(72, 86), /no chunk that there can be/],
    ["no bytes", u32(44, 0), /no chunk that there can be/],
    ["too many bytes", u32(44, 65_537), /no chunk that there can be/],
    ["half a block", u32(56, 1), /no chunk that there can be/],
    ["another device", u32(60, 1), /no chunk that there can be/],
    ["a row twice", (_, bytes) => bytes.copyWithin(80, 0, 80), /has two rows for chunk/],
  ])("is refused for %s", (_, edit, text) => {
    expect(read(edit)).toMatch(text);
  });

  it("is refused when it is cut or too long", () => {
    const edit = (): undefined => undefined;
    expect(read(edit, (all) => [all.subarray(0, -1)])).toMatch(/cut: 84 of 85/);
    expect(read(edit, (all) => [all, all.subarray(0, 3)])).toMatch(/cut/);
    expect(read(edit, (all) => [all, all.subarray(0, 80)])).toMatch(/more than 85 rows/);
  });
});
