// SPDX-License-Identifier: Apache-2.0
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { RafsBlob } from "../../../../src/image/rafs/blob-table.ts";
import { chunkInfoExtent } from "../../../../src/image/rafs/blob-table.ts";
import { isRafsBootstrap } from "../../../../src/image/rafs/bootstrap.ts";
import { RafsChunkMap } from "../../../../src/image/rafs/chunk-map.ts";
import { splitBlobMeta } from "../../../../src/image/rafs/chunk-info.ts";
import { parsePrefetchTable } from "../../../../src/image/rafs/prefetch-table.ts";
import { checkSections, parseTableOfContents } from "../../../../src/image/rafs/toc.ts";
import { type Native, loadNative } from "../../../../src/platform/native.ts";
import { BLOCK_BYTES, extentEnd } from "../../../../src/units.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { buildNow, decodeUnit, decodeWith, digestWith } from "../../../support/rafs-decode.ts";
import {
  FIXTURE_IMAGES,
  type FixtureImage,
  bytesOf,
  metaIdOf,
  parseFixture,
  readFixture,
} from "../../../support/rafs-fixtures.ts";

let native: Native;

beforeAll(() => {
  native = loadNative({ writerThreads: 1 });
});

afterAll(async () => {
  await native.destroy();
});

interface RangedInfo {
  readonly ci: Uint8Array;
  readonly header: Uint8Array;
}

async function rangedInfo(image: FixtureImage, blob: RafsBlob): Promise<RangedInfo> {
  const range = bytesOf(image.blob(metaIdOf(blob)), chunkInfoExtent(blob));
  const { codec, storedBytes, bytes } = blob.chunkInfo;
  const stored = range.subarray(0, storedBytes);
  const ci = await decodeWith(native, { codec, stored, decodedBytes: bytes });
  return { ci, header: range.subarray(storedBytes) };
}

/** Each blob of an image: its map from ranges alone. */
async function mapsOf(image: FixtureImage) {
  const { blobs, rows } = parseFixture(image.bootstrap);
  return Promise.all(
    blobs.map(async (blob, index) => {
      const own = rows[index];
      if (own === undefined) throw new Error("a blob without rows");
      const info = await rangedInfo(image, blob);
      const map = buildNow({ blob, ...info, rows: own, where: image.name });
      return { blob, rows: own, info, map };
    }),
  );
}

function whole(map: RafsChunkMap): Uint8Array {
  return Buffer.concat(map.serialize());
}

function sha256(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}

describe.each(FIXTURE_IMAGES)("the Nydus image %s", (name) => {
  const image = readFixture(name);

  it("has a bootstrap whose tables are read, in pieces of any size", () => {
    expect(isRafsBootstrap(image.bootstrap)).toBe(true);
    const parsed = parseFixture(image.bootstrap);
    expect(parsed.blobs.map(({ id }) => id)).toEqual(parsed.bootstrap.deviceTags);
    for (const pieceBytes of [1, 79, 80, 81, 1 << 20]) {
      expect(parseFixture(image.bootstrap, pieceBytes).rows).toEqual(parsed.rows);
    }
    for (const { ciIndex } of parsed.rows) {
      expect(ciIndex).toEqual(Uint32Array.from(ciIndex).sort());
      expect(ciIndex.length).toBeGreaterThan(0);
    }
  });

  it("gives the same chunk maps from its bundled files as from ranges", async () => {
    for (const { blob, rows, info, map } of await mapsOf(image)) {
      const bundled = image.blobMeta.get(metaIdOf(blob));
      if (bundled === undefined) continue;
      const { chunkInfo, header } = splitBlobMeta(bundled, blob, name);
      expect(sameBytes(header, info.header)).toBe(true);
      expect(chunkInfo === undefined).toBe(name === "nydus-lz4");
      if (chunkInfo === undefined) continue;
      const again = buildNow({ blob, ci: chunkInfo, header, rows, where: name });
      expect(sameBytes(whole(again), whole(map))).toBe(true);
    }
  });

  it("has tables of contents that prove what ranges gave", async () => {
    for (const { blob, rows, info } of await mapsOf(image)) {
      const layer = image.blob(metaIdOf(blob));
      if (!blob.features.toc) continue;
      const toc = parseTableOfContents(layer.subarray(-4096), layer.length, name);
      const { meta, header, digests } = checkSections(toc, blob, name);
      expect(sameBytes(sha256(info.ci), meta.sha256)).toBe(true);
      expect(sameBytes(sha256(info.header), header.sha256)).toBe(true);
      if (blob.tocDigest !== undefined) {
        const covered = blob.features.zran ? toc.entryBytes : toc.allBytes;
        expect(Buffer.from(sha256(covered)).toString("hex")).toBe(blob.tocDigest);
      }
      if (digests === undefined) throw new Error("every fixture of nydusify has digests");
      const all = bytesOf(layer, digests.stored);
      expect(sameBytes(sha256(all), digests.sha256)).toBe(true);
      rows.ciIndex.forEach((index, at) => {
        const start = rows.at[at] ?? 0;
        const words = rows.words.slice(start, start + 8);
        const own = all.subarray(index * 32, index * 32 + 32);
        expect(sameBytes(new Uint8Array(words.buffer), own)).toBe(true);
      });
    }
  });

  it("is rebuilt chunk by chunk, each as its digest says", async () => {
    for (const { blob, rows, map } of await mapsOf(image)) {
      const data = image.blob(blob.id);
      let proved = 0;
      let at = 0;
      while (at < map.sizeBytes) {
        const extent = map.widen({ offset: at, length: 1 });
        expect(extent.offset).toBe(at);
        at = extentEnd(extent);
        for (const unit of map.units(extent)) {
          const stored = bytesOf(data, unit.stored);
          expect(stored.length).toBe(unit.stored.length);
          const decoded = await decodeUnit(native, unit, stored);
          for (const piece of unit.pieces) {
            const bytes = decoded.subarray(piece.from, piece.from + piece.length);
            expect(bytes.length).toBe(piece.length);
            expect(sameBytes(digestWith(map.digester, bytes), piece.digest)).toBe(true);
            proved += 1;
          }
        }
      }
      expect(proved).toBe(rows.ciIndex.length);
      expect(at).toBe(blob.sizeBytes);
    }
  });

  it("keeps its maps over serialize and deserialize", async () => {
    for (const { blob, map } of await mapsOf(image)) {
      const bytes = whole(map);
      expect(bytes.length).toBe(map.memoryBytes);
      const again = RafsChunkMap.deserialize(Uint8Array.from(bytes), name);
      expect(sameBytes(whole(again), bytes)).toBe(true);
      expect(again.sameLayout(map)).toBe(true);
      expect([again.blobId, again.digester, again.sizeBytes]).toEqual([
        blob.id,
        blob.digester,
        blob.sizeBytes,
      ]);
      const all = { offset: 0, length: map.sizeBytes };
      expect(again.units(all)).toEqual(map.units(all));
    }
  });
});

describe("what the fixtures are", () => {
  it("covers the kinds there are", async () => {
    const kinds = await Promise.all(
      FIXTURE_IMAGES.map(async (name) => {
        const maps = await mapsOf(readFixture(name));
        const counts = maps.map(({ blob, map }) => {
          const units = map.units({ offset: 0, length: map.sizeBytes });
          return `${blob.chunkCount}/${units.length}`;
        });
        return [name, maps[0]?.blob.codec, maps[0]?.blob.digester, counts.join(" ")].join(" ");
      }),
    );
    expect(kinds).toMatchInlineSnapshot(`
      [
        "nydus zstd blake3 86/78 7/7",
        "nydus-lz4 lz4_block blake3 93/82 10/10",
        "nydus-none none blake3 86/78 7/7",
        "nydus-batch zstd blake3 86/13 7/6",
        "nydus-zran gzip sha256 80/5 4/1",
        "nydus-multi zstd blake3 86/78 7/7",
        "nydus-prefetch zstd blake3 86/78 7/7",
        "nydus-v2-dict zstd blake3 8/8 86/78 7/2",
        "none-sha256 none sha256 86/86",
        "zstd-sha256 zstd sha256 86/86",
        "lz4-sha256 lz4_block sha256 93/93",
      ]
    `);
  });

  it("has files to prefetch by their nids", () => {
    const { bootstrap } = readFixture("nydus-prefetch");
    const { prefetchTable } = parseFixture(bootstrap).bootstrap;
    expect(parsePrefetchTable(bytesOf(bootstrap, prefetchTable), "x")).toEqual([144, 206]);
    expect(prefetchTable.offset % BLOCK_BYTES).not.toBe(0);
  });
});
