// SPDX-License-Identifier: Apache-2.0
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DaemonError } from "../../src/errors.ts";
import type { Unit } from "../../src/image/chunk-map.ts";
import { chunkInfoExtent, parseBlobTable } from "../../src/image/rafs/blob-table.ts";
import { BOOTSTRAP_HEAD_BYTES, parseBootstrapHead } from "../../src/image/rafs/bootstrap.ts";
import { parseChunkInfoHeader, splitBlobMeta } from "../../src/image/rafs/chunk-info.ts";
import { RafsChunkMap } from "../../src/image/rafs/chunk-map.ts";
import { ChunkTableReader } from "../../src/image/rafs/chunk-table.ts";
import { parsePrefetchTable } from "../../src/image/rafs/prefetch-table.ts";
import { checkSections, parseTableOfContents } from "../../src/image/rafs/toc.ts";
import { type Native, loadNative } from "../../src/platform/native.ts";
import { sameBytes } from "../support/bytes.ts";
import { fuzzParameters, mutated, withoutOverreach } from "../support/fuzz.ts";
import { buildNow, decodeUnit, decodeWith, digestWith } from "../support/rafs-decode.ts";
import {
  type FixtureImage,
  bytesOf,
  metaIdOf,
  parseFixture,
  readFixture,
} from "../support/rafs-fixtures.ts";

/** What is read of an image's first blob. */
interface Parts {
  readonly image: FixtureImage;
  readonly ci: Uint8Array;
  readonly header: Uint8Array;
}

const NAMES = ["nydus", "nydus-batch", "nydus-zran"];
let native: Native;
let images: readonly Parts[];

beforeAll(async () => {
  native = loadNative({ writerThreads: 1 });
  images = await Promise.all(
    NAMES.map(async (name) => {
      const image = readFixture(name);
      const [blob] = parseFixture(image.bootstrap).blobs;
      if (blob === undefined) throw new Error("an image without blobs");
      const range = bytesOf(image.blob(metaIdOf(blob)), chunkInfoExtent(blob));
      const { codec, storedBytes, bytes } = blob.chunkInfo;
      const stored = range.subarray(0, storedBytes);
      const ci = Uint8Array.from(await decodeWith(native, { codec, stored, decodedBytes: bytes }));
      return { image, ci, header: Uint8Array.from(range.subarray(storedBytes)) };
    }),
  );
});

afterAll(async () => {
  await native.destroy();
});

/** What `parse` gives; undefined for a fault of the image. Every other fault is a bug. */
function soundOrRefused<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    const code = error instanceof DaemonError ? error.fault.code : "";
    if (code === "image_invalid" || code === "image_unsupported") return undefined;
    throw error;
  }
}

function fuzz(inputs: fc.Arbitrary<Uint8Array>, parse: (bytes: Uint8Array) => unknown): void {
  const property = fc.property(inputs, (bytes) => {
    withoutOverreach(bytes, (inside) => soundOrRefused(() => parse(inside)) ?? "refused");
  });
  fc.assert(property, fuzzParameters());
}

function whole(map: RafsChunkMap): string {
  return Buffer.concat(map.serialize()).toString("latin1");
}

describe("the RAFS parsers", () => {
  it("survive random bytes", () => {
    const bytes = fc.uint8Array({ maxLength: 9000, size: "max" });
    const { ci, header } = images[0] ?? { ci: new Uint8Array(), header: new Uint8Array() };
    const { blobs, bootstrap, rows } = parseFixture(readFixture("nydus").bootstrap);
    const [blob] = blobs;
    const [own] = rows;
    if (blob === undefined || own === undefined) throw new Error("an image without blobs");
    fuzz(bytes, (some) => parseBootstrapHead(some, some.length, "x"));
    fuzz(bytes, (some) => parseBlobTable(some, bootstrap, "x"));
    fuzz(bytes, (some) => parseTableOfContents(some, some.length, "x"));
    fuzz(bytes, (some) => parsePrefetchTable(some, "x"));
    fuzz(bytes, (some) => splitBlobMeta(some, blob, "x"));
    fuzz(bytes, (some) => parseChunkInfoHeader(some, blob, "x"));
    fuzz(bytes, (some) => whole(RafsChunkMap.deserialize(some, "x")));
    fuzz(fc.uint8Array({ minLength: ci.length, maxLength: ci.length }), (some) =>
      whole(buildNow({ blob, ci: some, header, rows: own, where: "x" })),
    );
  });

  it("survive changed bootstraps", () => {
    for (const { image } of images) {
      const { bootstrap } = image;
      const head = bootstrap.subarray(1024, BOOTSTRAP_HEAD_BYTES);
      const heads = mutated(head, 1024).map((tail) => {
        const bytes = new Uint8Array(1024 + tail.length);
        bytes.set(tail, 1024);
        return bytes;
      });
      fuzz(heads, (some) => parseBootstrapHead(some, bootstrap.length, "x"));
      const sound = parseFixture(bootstrap);
      const table = bytesOf(bootstrap, sound.bootstrap.blobTable);
      fuzz(mutated(table, 256), (some) => parseBlobTable(some, sound.bootstrap, "x"));
      fuzz(mutated(bytesOf(bootstrap, sound.bootstrap.chunkTable), 400), (some) => {
        const reader = new ChunkTableReader(sound.bootstrap, sound.blobs, "x");
        reader.push(some.subarray(0, 33));
        reader.push(some.subarray(33));
        return reader.finish().map(({ ciIndex, at }) => [[...ciIndex], [...at]]);
      });
    }
  });

  it("survive changed chunk infos, and keep no more than they were given", () => {
    for (const { image, ci, header } of images) {
      const { blobs, rows } = parseFixture(image.bootstrap);
      const [blob] = blobs;
      const [own] = rows;
      if (blob === undefined || own === undefined) throw new Error("an image without blobs");
      // Without rows there is less to contradict.
      const none = { ...own, ciIndex: new Uint32Array(), at: new Uint32Array() };
      const make = (some: Uint8Array, head: Uint8Array): string => {
        const map = buildNow({ blob, ci: some, header: head, rows: none, where: "x" });
        expect(map.memoryBytes).toBeLessThanOrEqual(4 * some.length + 128);
        const all = map.units({ offset: 0, length: map.sizeBytes });
        return whole(map) + all.length;
      };
      fuzz(mutated(ci, ci.length), (some) => make(some, header));
      fuzz(mutated(header, 60), (some) => make(ci, some));
      const file = Buffer.concat([ci, new Uint8Array(-ci.length & 4095), header]);
      fuzz(mutated(file, ci.length), (some) => splitBlobMeta(some, blob, "x").chunkInfo?.length);
    }
  });

  it("survive changed tables of contents", () => {
    const { bootstrap, blob } = readFixture("nydus");
    const [entry] = parseFixture(bootstrap).blobs;
    if (entry === undefined) throw new Error("an image without blobs");
    const layer = blob(entry.id);
    fuzz(mutated(layer.subarray(-4096), 4096), (some) => {
      const toc = parseTableOfContents(some, layer.length, "x");
      const { meta } = checkSections(toc, entry, "x");
      return [[...toc.entries.keys()], meta.stored];
    });
  });

  it("survive changed chunk map files, without making more than their size", () => {
    for (const { image, ci, header } of images) {
      const { blobs, rows } = parseFixture(image.bootstrap);
      const [blob] = blobs;
      const [own] = rows;
      if (blob === undefined || own === undefined) throw new Error("an image without blobs");
      const map = buildNow({ blob, ci, header, rows: own, where: "x" });
      const file = Uint8Array.from(Buffer.concat(map.serialize()));
      fuzz(mutated(file, 128), (some) => {
        const again = RafsChunkMap.deserialize(some, "x");
        expect(again.memoryBytes).toBe(some.length);
        const all = { offset: 0, length: again.sizeBytes };
        return [again.units(all).length, again.stored(all), again.widen({ offset: 5, length: 1 })];
      });
    }
  });
});

/** One bit of what a daemon reads: of the bootstrap's head or tables, the infos or their header. */
function flipped(parts: Parts, random: { readonly at: number; readonly bit: number }): Parts {
  const bootstrap = Uint8Array.from(parts.image.bootstrap);
  const ci = Uint8Array.from(parts.ci);
  const header = Uint8Array.from(parts.header);
  const { blobTable, chunkTable, deviceTags } = parseFixture(bootstrap).bootstrap;
  const targets = [
    bootstrap.subarray(1024, 1408 + deviceTags.length * 128),
    bytesOf(bootstrap, blobTable),
    bytesOf(bootstrap, chunkTable),
    ci,
    header.subarray(0, 60),
  ];
  // Each target as likely as the others: most bits are in the chunk table.
  const target = targets[random.at % targets.length] ?? ci;
  const at = Math.floor(random.at / targets.length) % target.length;
  target[at] = (target[at] ?? 0) ^ (1 << random.bit);
  return { image: { ...parts.image, bootstrap }, ci, header };
}

interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly isProved: boolean;
}

/** Everything that may be served of the first blob; `skip` says which units need no look. */
async function served(parts: Parts, skip: (unit: Unit) => boolean): Promise<readonly Piece[]> {
  const map = soundOrRefused(() => {
    const { blobs, rows } = parseFixture(parts.image.bootstrap);
    const [blob] = blobs;
    const [own] = rows;
    if (blob === undefined || own === undefined) return undefined;
    return buildNow({ blob, ci: parts.ci, header: parts.header, rows: own, where: "x" });
  });
  if (map === undefined) return [];
  const data = parts.image.blob(map.blobId);
  const pieces: Piece[] = [];
  for (const unit of map.units({ offset: 0, length: map.sizeBytes })) {
    if (skip(unit)) continue;
    const stored = bytesOf(data, unit.stored);
    const decoded = await decodeUnit(native, unit, stored).catch(() => undefined);
    if (decoded === undefined) continue;
    for (const { offset, from, length, digest } of unit.pieces) {
      const bytes = decoded.subarray(from, from + length);
      const isProved =
        bytes.length === length && sameBytes(digestWith(map.digester, bytes), digest);
      pieces.push({ offset, bytes, isProved });
    }
  }
  return pieces;
}

function textOf(unit: Unit): string {
  return JSON.stringify(unit, (_, value: unknown) =>
    value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value,
  );
}

const flips = fc.record({ at: fc.nat(2 ** 30), bit: fc.nat(7) });

describe("one flipped bit", () => {
  it("is refused, shows in a digest, or changes nothing", async () => {
    let unproved = 0;
    for (const parts of images) {
      const sound = new Map((await served(parts, () => false)).map((one) => [one.offset, one]));
      const { blobs, rows } = parseFixture(parts.image.bootstrap);
      const [blob] = blobs;
      const [own] = rows;
      if (blob === undefined || own === undefined) throw new Error("an image without blobs");
      const map = buildNow({ blob, ci: parts.ci, header: parts.header, rows: own, where: "x" });
      const known = new Set(map.units({ offset: 0, length: map.sizeBytes }).map(textOf));
      const property = fc.asyncProperty(flips, async (flip) => {
        for (const piece of await served(flipped(parts, flip), (unit) => known.has(textOf(unit)))) {
          if (piece.isProved) {
            const before = sound.get(piece.offset);
            expect(before !== undefined && sameBytes(piece.bytes, before.bytes)).toBe(true);
          } else unproved += 1;
        }
      });
      await fc.assert(property, fuzzParameters());
    }
    // The digests had something to do, or this shows nothing.
    expect(unproved).toBeGreaterThan(0);
  });

  it("would be caught if digests were not looked at", async () => {
    const [, batch] = images;
    if (batch === undefined) throw new Error("no batch image");
    const sound = await served(batch, () => false);
    expect(sound.every(({ isProved }) => isProved)).toBe(true);
    // Where a batch's member begins in its batch only the chunk infos say.
    const { blobs } = parseFixture(batch.image.bootstrap);
    const ci = Uint8Array.from(batch.ci);
    const view = new DataView(ci.buffer);
    const member = Array.from({ length: blobs[0]?.chunkCount ?? 0 }, (_, at) => at).find(
      (at) => ((ci[at * 24 + 7] ?? 0) & 4) !== 0 && view.getUint32(at * 24 + 16, true) > 0,
    );
    if (member === undefined) throw new Error("no member that is not first in its batch");
    view.setUint32(member * 24 + 16, view.getUint32(member * 24 + 16, true) - 1, true);
    const pieces = await served({ ...batch, ci }, () => false);
    const wrong = pieces.filter(({ isProved }) => !isProved);
    expect(wrong).toHaveLength(1);
    const before = sound.find(({ offset }) => offset === wrong[0]?.offset);
    expect(sameBytes(before?.bytes ?? new Uint8Array(), wrong[0]?.bytes ?? new Uint8Array())).toBe(
      false,
    );
  });
});
