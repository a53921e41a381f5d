// SPDX-License-Identifier: Apache-2.0
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { crc32c } from "../../../../src/image/erofs/crc32c.ts";
import { matchDevices, parseDeviceTable } from "../../../../src/image/erofs/device-table.ts";
import { type Superblock, parseSuperblock } from "../../../../src/image/erofs/superblock.ts";
import { faultOf } from "../../../support/faults.ts";
import { mkfsErofs, writeTree } from "../../../support/mkfs.ts";
import { digestOf } from "../../../support/oci-image.ts";

const INCOMPAT = 1024 + 80;

let folder: string;
let tree: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-superblock-"));
  tree = await writeTree(folder);
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function make(name: string, ...args: readonly string[]): Promise<Uint8Array> {
  const path = join(folder, name);
  await mkfsErofs(path, tree, args);
  return await readFile(path);
}

function names({ features }: Superblock): readonly string[] {
  return features.map(({ name }) => name);
}

/** A copy with other bytes, its checksum made right again. */
function altered(image: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = Uint8Array.from(image);
  const view = new DataView(copy.buffer);
  change(view);
  view.setUint32(1024 + 4, 0, true);
  view.setUint32(1024 + 4, crc32c(0xffffffff, copy.subarray(1024, 4096)), true);
  return copy;
}

describe("the superblock of images made by mkfs.erofs", () => {
  it("gives the size of a plain image", async () => {
    const image = await make("plain.img");
    const superblock = parseSuperblock(image, "x");
    expect(superblock.blocks * 4096).toBe(image.length);
    expect(superblock).toMatchObject({ compressed: false, deviceCount: 0, deviceTable: undefined });
    expect(names(superblock)).toEqual([]);
  });

  it.each([
    ["lz4", ["-zlz4"]],
    ["lz4hc in large clusters", ["-zlz4hc", "-C65536"]],
    ["lz4 of the first kernels", ["-zlz4", "-Elegacy-compress"]],
    ["packed tails", ["-zlz4", "-Eztailpacking"]],
  ])("tells that %s compresses", async (name, args) => {
    const image = await make(`${name}.img`, ...args);
    const superblock = parseSuperblock(image, "x");
    expect(superblock.compressed).toBe(true);
    expect(superblock.blocks * 4096).toBe(image.length);
  });

  it("tells where the device table lies", async () => {
    const blob = join(folder, "data.blob");
    const image = await make("multi.img", "--chunksize=4096", `--blobdev=${blob}`);
    const data = await readFile(blob);
    const superblock = parseSuperblock(image, "x");
    expect(superblock).toMatchObject({
      compressed: false,
      deviceCount: 1,
      deviceTable: { offset: 1152, length: 128 },
    });
    expect(names(superblock)).toEqual(["chunked_file", "device_table or compr_head2"]);
    const slots = parseDeviceTable(image.subarray(1152, 1280), superblock, "x");
    // This mkfs leaves the slot empty: neither a tag nor a size.
    expect(slots).toEqual([{ tag: "", blocks: 0, mappedBlock: 0 }]);
    const layerOf = (bytes: Uint8Array) => ({
      digest: digestOf(bytes),
      size: bytes.length,
      mediaType: "m",
    });
    const plan = { bootstrap: layerOf(image), devices: [layerOf(data)] };
    expect(matchDevices(superblock, slots, plan, "x")).toEqual([
      { index: 0, layer: plan.devices[0], tag: "" },
    ]);
  });

  it("reads images the same that erofs-utils itself dumps", async () => {
    const image = await make("dumped.img");
    const dumped = await promisify(execFile)("dump.erofs", ["-s", join(folder, "dumped.img")]);
    const blocks = /blocks:\s+(\d+)/.exec(dumped.stdout)?.[1];
    expect(parseSuperblock(image, "x").blocks).toBe(Number(blocks));
  });
});

describe("a superblock that must not be believed", () => {
  let sound: Uint8Array;
  beforeAll(async () => {
    sound = await make("sound.img");
  });

  it.each([
    ["zeros", () => new Uint8Array(4096)],
    ["text", () => new TextEncoder().encode("#!/bin/sh\n".repeat(500))],
    ["too short", () => sound.subarray(0, 4095)],
    ["empty", () => new Uint8Array(0)],
    ["damaged behind the superblock", () => flipped(4000)],
    ["damaged in a field", () => flipped(1024 + 36)],
    ["damaged in the checksum", () => flipped(1024 + 4)],
    ["larger than its block", () => altered(sound, (view) => view.setUint8(1024 + 13, 255))],
    ["of impossible block size", () => altered(sound, (view) => view.setUint8(1024 + 12, 40))],
    [
      "with directory blocks of another size",
      () => altered(sound, (view) => view.setUint8(1024 + 90, 1)),
    ],
    [
      "whose device table lies on itself",
      () =>
        altered(sound, (view) => {
          view.setUint32(INCOMPAT, 8, true);
          view.setUint16(1024 + 86, 3, true);
          view.setUint16(1024 + 88, 8, true);
        }),
    ],
  ])("%s", (_, make) => {
    expect(faultOf(() => parseSuperblock(make(), "x")).code).toBe("image_invalid");
  });

  it("names the features it does not know", () => {
    const future = altered(sound, (view) => view.setUint32(INCOMPAT, 0x80001004, true));
    const fault = faultOf(() => parseSuperblock(future, "x"));
    expect(fault).toMatchObject({
      code: "image_unsupported",
      detail: "it needs EROFS features unknown here: 0x1000, 0x80000000",
    });
  });

  it.each([
    ["another block size", (view: DataView) => view.setUint8(1024 + 12, 9)],
    ["a RAFS v6 bootstrap", (view: DataView) => view.setUint32(1024 + 8, 0x40000001, true)],
  ])("does not serve %s", (_, change) => {
    const fault = faultOf(() => parseSuperblock(altered(sound, change), "x"));
    expect(fault.code).toBe("image_unsupported");
  });

  it("knows 48-bit block counts, whose high half shares its place with the root's number", () => {
    const wide = (rootNid: bigint): Superblock =>
      parseSuperblock(
        altered(sound, (view) => {
          view.setUint32(INCOMPAT, 0x80, true);
          view.setUint16(1024 + 14, 2, true);
          view.setUint32(1024 + 36, 5, true);
          view.setBigUint64(1024 + 112, rootNid, true);
        }),
        "x",
      );
    expect(wide(36n)).toMatchObject({ blocks: 2 * 2 ** 32 + 5, wideBlocks: true });
    expect(wide(0n)).toMatchObject({ blocks: 5, wideBlocks: true });
  });

  function flipped(offset: number): Uint8Array {
    const copy = Uint8Array.from(sound);
    copy[offset] = (copy[offset] ?? 0) ^ 0x10;
    return copy;
  }
});

it("computes CRC-32C as its published check value says, without the final inversion", () => {
  const crc = crc32c(0xffffffff, new TextEncoder().encode("123456789"));
  expect((crc ^ 0xffffffff) >>> 0).toBe(0xe3069283);
});
