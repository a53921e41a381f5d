// SPDX-License-Identifier: Apache-2.0
// Inodes and directories of real images: every file is found once, and its extents, read through
// the chunk maps of the devices, are its bytes.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as z from "zod";
import { chunkInfoExtent } from "../../../../src/image/rafs/blob-table.ts";
import type { RafsChunkMap } from "../../../../src/image/rafs/chunk-map.ts";
import { type DeviceExtent, ErofsReader, extentsOf } from "../../../../src/image/erofs/inode.ts";
import { filesUnder } from "../../../../src/image/erofs/tree.ts";
import { parsePrefetchTable } from "../../../../src/image/rafs/prefetch-table.ts";
import { type Native, loadNative } from "../../../../src/platform/native.ts";
import { extentEnd } from "../../../../src/units.ts";
import { buildNow, decodeUnit, decodeWith } from "../../../support/rafs-decode.ts";
import {
  FIXTURES,
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

const line = z.object({
  path: z.string(),
  sha256: z.string().optional(),
  size: z.number().optional(),
});

function expectedFiles(name: string): { path: string; sha256: string; size: number }[] {
  const layout = name === "nydus-v2-dict" ? "v2" : "two-layers";
  const file = name.endsWith("-sha256") ? "directory" : layout;
  const text = readFileSync(`${FIXTURES}expect-${file}.jsonl`, "utf8").trim();
  return text.split("\n").flatMap((entry) => {
    const { path, sha256, size } = line.parse(JSON.parse(entry));
    return sha256 === undefined || size === undefined ? [] : [{ path, sha256, size }];
  });
}

function readerOf({ bootstrap: bytes, name }: FixtureImage, reads?: [number, number][]) {
  const { metaBlock, deviceBlocks } = parseFixture(bytes).bootstrap;
  return new ErofsReader({
    readAt: async (offset, length) => {
      reads?.push([offset, length]);
      return bytes.slice(offset, offset + length);
    },
    sizeBytes: bytes.length,
    metaBlock,
    deviceBlocks,
    where: name,
  });
}

async function mapOf(image: FixtureImage, index: number): Promise<RafsChunkMap> {
  const { blobs, rows } = parseFixture(image.bootstrap);
  const [blob, own] = [blobs[index], rows[index]];
  if (blob === undefined || own === undefined) throw new Error("no such blob");
  const range = bytesOf(image.blob(metaIdOf(blob)), chunkInfoExtent(blob));
  const { codec, storedBytes, bytes } = blob.chunkInfo;
  const stored = range.subarray(0, storedBytes);
  const ci = await decodeWith(native, { codec, stored, decodedBytes: bytes });
  const header = range.subarray(storedBytes);
  return buildNow({ blob, ci, header, rows: own, where: image.name });
}

/** The devices as the kernel would see them, but for chunks that this image does not vouch for. */
async function devicesOf(image: FixtureImage): Promise<Uint8Array[]> {
  const { blobs } = parseFixture(image.bootstrap);
  return Promise.all(
    blobs.map(async (blob, index) => {
      const map = await mapOf(image, index);
      const device = new Uint8Array(map.sizeBytes);
      for (const unit of map.units({ offset: 0, length: map.sizeBytes })) {
        const stored = bytesOf(image.blob(blob.id), unit.stored);
        const decoded = await decodeUnit(native, unit, stored);
        for (const { offset, from, length } of unit.pieces) {
          device.set(decoded.subarray(from, from + length), offset);
        }
      }
      return device;
    }),
  );
}

async function all<T>(values: AsyncIterable<T>): Promise<T[]> {
  const taken: T[] = [];
  for await (const value of values) taken.push(value);
  return taken;
}

function contentOf(devices: readonly Uint8Array[], extents: readonly DeviceExtent[]): Uint8Array {
  return Buffer.concat(
    extents.map((extent) => {
      const device = devices[extent.device - 1] ?? new Uint8Array();
      return device.subarray(extent.offset, extentEnd(extent));
    }),
  );
}

describe.each(FIXTURE_IMAGES)("the Nydus image %s", (name) => {
  const image = readFixture(name);

  it("has all its files beneath the root, with their bytes", async () => {
    const reader = readerOf(image);
    const devices = await devicesOf(image);
    const { rootNid } = parseFixture(image.bootstrap).bootstrap;
    const found: string[] = [];
    for (const nid of await all(filesUnder(reader, rootNid))) {
      const { sizeBytes, kind } = await reader.inode(nid);
      expect(kind).toBe("file");
      const content = contentOf(devices, await all(extentsOf(reader, nid)));
      expect(content.length - sizeBytes).toBeLessThan(4096);
      const hash = createHash("sha256").update(content.subarray(0, sizeBytes)).digest("hex");
      found.push(`${sizeBytes} ${hash}`);
    }
    const expected = expectedFiles(name).map(({ size, sha256 }) => `${size} ${sha256}`);
    expect(found.sort()).toEqual(expected.sort());
  });
});

describe("the prefetch table of nydus-prefetch", () => {
  const image = readFixture("nydus-prefetch");

  it("names a directory and a file, whose bytes are found", async () => {
    const { prefetchTable } = parseFixture(image.bootstrap).bootstrap;
    const nids = parsePrefetchTable(bytesOf(image.bootstrap, prefetchTable), "x");
    expect(nids).toEqual([144, 206]);
    const reader = readerOf(image);
    const devices = await devicesOf(image);
    const hashes: string[] = [];
    for (const nid of nids) {
      for (const file of await all(filesUnder(reader, nid))) {
        const { sizeBytes } = await reader.inode(file);
        const content = contentOf(devices, await all(extentsOf(reader, file)));
        const hash = createHash("sha256").update(content.subarray(0, sizeBytes));
        hashes.push(hash.digest("hex"));
      }
    }
    const expected = expectedFiles(image.name);
    const named = expected.filter(({ path }) => /^\/bin\/|^\/data\/mixed\.bin$/.test(path));
    expect(hashes.toSorted()).toEqual(named.map(({ sha256 }) => sha256).sort());
    expect(hashes.at(-1)).toBe(expected.find(({ path }) => path === "/data/mixed.bin")?.sha256);
  });

  it("is followed without reading more than a few pages of the bootstrap", async () => {
    const reads: [number, number][] = [];
    const reader = readerOf(image, reads);
    for (const file of await all(filesUnder(reader, 144))) await all(extentsOf(reader, file));
    expect(reads.length).toBeLessThanOrEqual(2);
    expect(reads.every(([, length]) => length <= 32 * 1024)).toBe(true);
  });

  it("gives each directory once, over all its entries", async () => {
    const seen = new Set<number>();
    const reader = readerOf(image);
    const first = await all(filesUnder(reader, 144, seen));
    expect(first.length).toBeGreaterThan(0);
    expect(await all(filesUnder(reader, 144, seen))).toEqual([]);
    expect(await all(filesUnder(reader, 206, seen))).toEqual([206]);
  });
});

describe("an image whose inodes lead to the same bytes over and over", () => {
  it("is refused when it has cost more than any sound one, and lets others run until then", async () => {
    let pauses = 0;
    const reader = new ErofsReader({
      readAt: async (_, length) => new Uint8Array(length),
      sizeBytes: 8192,
      metaBlock: 0,
      deviceBlocks: [],
      where: "x",
      pause: async () => {
        pauses += 1;
      },
    });
    const readsMax = (64 * 8192 + 1024 * 1024) / 4096;
    for (let reads = 0; reads < readsMax; reads += 1) await reader.bytes(2048, 4096, "it");
    expect(pauses).toBe(6);
    await expect(reader.bytes(0, 4096, "it")).rejects.toThrow("over and over");
  });
});
