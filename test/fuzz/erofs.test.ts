// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { crc32c } from "../../src/image/erofs/crc32c.ts";
import { matchDevices, parseDeviceTable } from "../../src/image/erofs/device-table.ts";
import { type Superblock, parseSuperblock } from "../../src/image/erofs/superblock.ts";
import { fuzzParameters, mutated, valueOrFault, withoutOverreach } from "../support/fuzz.ts";
import { mkfsErofs, writeTree } from "../support/mkfs.ts";
import { digestOf } from "../support/oci-image.ts";

const HEAD_BYTES = 4096;
const SUPERBLOCK_END = 1024 + 128;

let heads: readonly Uint8Array[];
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-fuzz-"));
  const tree = await writeTree(folder);
  const kinds = [[], ["-zlz4"], ["--chunksize=4096", `--blobdev=${join(folder, "blob")}`]];
  heads = await Promise.all(
    kinds.map(async (args, at) => {
      const path = join(folder, `image${at}`);
      await mkfsErofs(path, tree, args);
      return Uint8Array.from((await readFile(path)).subarray(0, HEAD_BYTES));
    }),
  );
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** Makes the checksum right, so that inputs get past it. */
function sealed(head: Uint8Array): Uint8Array {
  if (head.length < HEAD_BYTES) return head;
  const copy = Uint8Array.from(head);
  const view = new DataView(copy.buffer);
  view.setUint32(1028, 0, true);
  view.setUint32(1028, crc32c(0xffffffff, copy.subarray(1024, HEAD_BYTES)), true);
  return copy;
}

function parse(head: Uint8Array): Superblock {
  return parseSuperblock(head, "x");
}

function checkSound(superblock: Superblock | undefined): void {
  if (superblock === undefined) return;
  const { blocks, deviceCount, deviceTable } = superblock;
  expect(Number.isSafeInteger(blocks) && blocks >= 0).toBe(true);
  expect(deviceTable?.length ?? 0).toBe(deviceCount * 128);
  expect(deviceTable === undefined || deviceTable.offset >= SUPERBLOCK_END).toBe(true);
}

describe("the superblock parser", () => {
  it("survives random bytes", () => {
    const bytes = fc.uint8Array({ maxLength: 2 * HEAD_BYTES, size: "max" });
    const property = fc.property(bytes, (head) => withoutOverreach(head, parse));
    fc.assert(property, fuzzParameters());
  });

  it("survives changed images, with the checksum made right and not", () => {
    for (const head of heads) {
      const inputs = mutated(head.subarray(1024), 128).map((tail) => {
        const bytes = new Uint8Array(1024 + tail.length);
        bytes.set(tail, 1024);
        return bytes;
      });
      const property = fc.property(inputs, fc.boolean(), (input, seal) => {
        const bytes = seal ? sealed(input) : input;
        withoutOverreach(bytes, parse);
        checkSound(valueOrFault(() => parse(bytes)));
      });
      fc.assert(property, fuzzParameters());
    }
  });

  it("would be caught if it let an image through whose checksum is wrong", () => {
    const head = heads[0] ?? new Uint8Array();
    const flip = fc.tuple(
      fc.integer({ min: 1024, max: HEAD_BYTES - 1 }),
      fc.integer({ min: 1, max: 255 }),
    );
    const property = fc.property(flip, ([at, bits]) => {
      const copy = Uint8Array.from(head);
      copy[at] = (copy[at] ?? 0) ^ bits;
      // Clearing the flag that says there is a checksum is the one change that passes.
      fc.pre(at !== 1024 + 8);
      expect(valueOrFault(() => parse(copy))).toBeUndefined();
    });
    fc.assert(property, fuzzParameters());
  });
});

const superblocks = fc.record({
  blocks: fc.nat(8),
  compressed: fc.boolean(),
  features: fc.constant([]),
  wideBlocks: fc.boolean(),
  deviceCount: fc.nat(4),
  deviceTable: fc.constant(undefined),
});

const layers = fc.array(fc.record({ seed: fc.nat(5), size: fc.integer({ min: 1, max: 40_000 }) }), {
  maxLength: 4,
});

describe("the device table", () => {
  it("parser survives random bytes of any length", () => {
    const tables = fc.uint8Array({ maxLength: 5 * 128, size: "max" });
    const property = fc.property(tables, superblocks, (bytes, superblock) => {
      withoutOverreach(bytes, (inside) => parseDeviceTable(inside, superblock, "x"));
    });
    fc.assert(property, fuzzParameters());
  });

  it("gives each layer to one slot, or refuses", () => {
    const hex = fc.nat(5).map((seed) => digestOf(Uint8Array.of(seed)).slice("sha256:".length));
    const tags = fc.oneof(fc.constant(""), hex, fc.string({ maxLength: 64 }));
    const slots = fc.array(fc.record({ tag: tags, blocks: fc.nat(12), mappedBlock: fc.nat() }), {
      maxLength: 4,
    });
    const property = fc.property(superblocks, slots, layers, (superblock, slots, made) => {
      const devices = made.map(({ seed, size }) => ({
        digest: digestOf(Uint8Array.of(seed)),
        size,
        mediaType: "m",
      }));
      const bootstrap = { digest: digestOf(Uint8Array.of(9)), size: 20_000, mediaType: "m" };
      const plan = { bootstrap, devices };
      const matched = valueOrFault(() => matchDevices(superblock, slots, plan, "x"));
      if (matched === undefined) return;
      expect(matched.map(({ index }) => index)).toEqual(slots.map((_, index) => index));
      expect(new Set(matched.map(({ layer }) => layer))).toEqual(new Set(devices));
      for (const { index, layer } of matched) {
        expect((slots[index]?.blocks ?? 0) * 4096).toBeLessThan(layer.size + 4096);
      }
    });
    fc.assert(property, fuzzParameters());
  });
});
