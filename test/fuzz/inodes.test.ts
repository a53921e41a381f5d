// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DaemonError } from "../../src/errors.ts";
import { fileExtents } from "../../src/flow/prefetch/file-extents.ts";
import { storedExtents } from "../../src/image/erofs/compressed.ts";
import { parseDeviceTable } from "../../src/image/erofs/device-table.ts";
import { type DeviceExtent, ErofsReader, extentsOf } from "../../src/image/erofs/inode.ts";
import { parseSuperblock } from "../../src/image/erofs/superblock.ts";
import { filesUnder } from "../../src/image/erofs/tree.ts";
import { fuzzParameters, mutated } from "../support/fuzz.ts";
import { mkfsErofs, writeTree } from "../support/mkfs.ts";
import { parseFixture, readFixture } from "../support/rafs-fixtures.ts";

interface Sample {
  readonly bytes: Uint8Array;
  readonly metaBlock: number;
  readonly rootNid: number;
  readonly deviceBlocks: readonly number[];
  /** What device 0 and 1 hold, where it is known. */
  readonly devices: readonly Uint8Array[];
}

/** Directories and inodes come to a few blocks; file data behind them says nothing. */
const METADATA_BYTES = 64 * 1024;

let samples: readonly Sample[];
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-fuzz-"));
  const tree = await writeTree(folder);
  const chunked = ["--chunksize=4096", `--blobdev=${join(folder, "blob")}`];
  const plain = await madeSample(join(folder, "plain"), tree, []);
  const chunks = await madeSample(join(folder, "chunks"), tree, chunked);
  const { bootstrap: bytes } = readFixture("nydus-prefetch");
  const { metaBlock, rootNid, deviceBlocks } = parseFixture(bytes).bootstrap;
  const rafs = { bytes, metaBlock, rootNid, deviceBlocks, devices: [] };
  const compressed = [];
  for (const args of [
    ["-zlz4hc", "-C16384"],
    ["-zlz4", "-Elegacy-compress"],
  ]) {
    const sample = await madeSample(join(folder, args.join("")), tree, args);
    compressed.push({ ...sample, devices: [] });
  }
  samples = [plain, chunks, rafs, ...compressed];
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function madeSample(path: string, tree: string, args: readonly string[]): Promise<Sample> {
  await mkfsErofs(path, tree, args);
  const bytes = Uint8Array.from(await readFile(path));
  const view = new DataView(bytes.buffer);
  const superblock = parseSuperblock(bytes.subarray(0, 4096), path);
  const { offset, length } = superblock.deviceTable ?? { offset: 0, length: 0 };
  const slots = parseDeviceTable(bytes.subarray(offset, offset + length), superblock, path);
  return {
    bytes,
    metaBlock: view.getUint32(1024 + 40, true),
    rootNid: view.getUint16(1024 + 14, true),
    deviceBlocks: slots.map(({ blocks }) => blocks),
    devices: [bytes, args.length === 0 ? new Uint8Array() : await readFile(join(folder, "blob"))],
  };
}

function readerOf(sample: Sample, bytes: Uint8Array): ErofsReader {
  return new ErofsReader({
    readAt: async (offset, length) => {
      const isInside = offset >= 0 && length > 0 && offset + length <= bytes.length;
      if (!isInside) throw new Error(`a read outside: ${offset}+${length} of ${bytes.length}`);
      return bytes.slice(offset, offset + length);
    },
    sizeBytes: bytes.length,
    metaBlock: sample.metaBlock,
    deviceBlocks: sample.deviceBlocks,
    where: "x",
  });
}

/** Every file and extent up to a fault; every other exception is a bug. */
async function walk(sample: Sample, bytes: Uint8Array): Promise<DeviceExtent[]> {
  const reader = readerOf(sample, bytes);
  const found: DeviceExtent[] = [];
  try {
    for await (const nid of filesUnder(reader, sample.rootNid)) {
      for await (const extent of storedExtents(reader, nid)) found.push(extent);
    }
    const { metaBlock, rootNid } = sample;
    const places = { metaBlock, rootNid, xattrBlock: metaBlock, packedNid: rootNid + 2 };
    const files = filesUnder(reader, rootNid);
    for await (const { length } of fileExtents(reader, files, places)) {
      expect(length).toBeGreaterThan(0);
    }
  } catch (error) {
    if (!(error instanceof DaemonError) || error.fault.code !== "image_invalid") throw error;
  }
  return found;
}

function checkExtents({ deviceBlocks }: Sample, extents: readonly DeviceExtent[]): void {
  for (const { device, offset, length } of extents) {
    expect([offset % 4096, length % 4096]).toEqual([0, 0]);
    expect(length).toBeGreaterThan(0);
    expect(device).toBeLessThanOrEqual(deviceBlocks.length);
    // Device 0, and one whose size is not told, end where block numbers do.
    const blocks = deviceBlocks[device - 1] ?? 0;
    expect(offset + length).toBeLessThanOrEqual((blocks === 0 ? 2 ** 32 : blocks) * 4096);
  }
}

function changed({ bytes, metaBlock }: Sample): fc.Arbitrary<Uint8Array> {
  const start = metaBlock * 4096;
  const tail = bytes.subarray(start);
  return mutated(tail, Math.min(tail.length, METADATA_BYTES)).map((changedTail) => {
    const copy = new Uint8Array(start + changedTail.length);
    copy.set(bytes.subarray(0, start));
    copy.set(changedTail, start);
    return copy;
  });
}

describe("the reader of inodes", () => {
  it("finds the bytes of the files that mkfs.erofs wrote, but for tails inside inodes", async () => {
    const names = ["noise", "text", "sub/tiny"];
    const contents = await Promise.all(names.map((name) => readFile(join(folder, "tree", name))));
    for (const sample of samples.filter(({ devices }) => devices.length > 0)) {
      const reader = readerOf(sample, sample.bytes);
      const sizes: number[] = [];
      for await (const nid of filesUnder(reader, sample.rootNid)) {
        const { sizeBytes } = await reader.inode(nid);
        sizes.push(sizeBytes);
        const parts: Uint8Array[] = [];
        for await (const { device, offset, length } of extentsOf(reader, nid)) {
          parts.push(sample.devices[device]?.subarray(offset, offset + length) ?? new Uint8Array());
        }
        const found = Buffer.concat(parts).subarray(0, sizeBytes);
        expect(sizeBytes - found.length).toBeLessThan(4096);
        const written = contents.find(({ length }) => length === sizeBytes);
        expect(written?.subarray(0, found.length).equals(found)).toBe(true);
      }
      const bySize = (a: number, b: number): number => a - b;
      expect(sizes.toSorted(bySize)).toEqual(contents.map(({ length }) => length).sort(bySize));
    }
  });

  it("survives changed images, and never reads outside of them", async () => {
    for (const sample of samples) {
      const property = fc.asyncProperty(changed(sample), async (bytes) => {
        checkExtents(sample, await walk(sample, bytes));
      });
      await fc.assert(property, fuzzParameters());
    }
  });

  it("survives any inode, at any place", async () => {
    const inodes = fc.tuple(fc.uint8Array({ minLength: 64, maxLength: 64 }), fc.nat(400));
    const layouts = fc.tuple(
      fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
      fc.constantFrom(0x40, 0x80),
    );
    for (const sample of samples) {
      const property = fc.asyncProperty(inodes, layouts, async ([inode, slot], [format, type]) => {
        const bytes = Uint8Array.from(sample.bytes);
        const at = Math.min(sample.metaBlock * 4096 + slot * 32, bytes.length - 64);
        bytes.set(inode, at);
        bytes.set([format, 0, 0, 0, 0, type], at);
        const reader = readerOf(sample, bytes);
        const nid = Math.floor((at - sample.metaBlock * 4096) / 32);
        const found = await walk({ ...sample, rootNid: nid }, bytes);
        checkExtents(sample, found);
        await expect(reader.inode(2 ** 53 - 1)).rejects.toThrow(DaemonError);
      });
      await fc.assert(property, fuzzParameters());
    }
  });

  it("ends on directories that lead back to each other", async () => {
    const [, , sample] = samples;
    if (sample === undefined) throw new Error("three samples");
    const nids = fc.array(fc.tuple(fc.nat(Math.floor(sample.bytes.length / 12)), fc.nat(300)), {
      maxLength: 200,
    });
    const property = fc.asyncProperty(nids, async (places) => {
      const bytes = Uint8Array.from(sample.bytes);
      for (const [place, nid] of places) {
        const at = Math.min(place * 12, bytes.length - 12);
        bytes.set([nid & 0xff, nid >> 8, 0, 0, 0, 0, 0, 0], at);
      }
      await walk(sample, bytes);
    });
    await fc.assert(property, fuzzParameters());
  });
});
