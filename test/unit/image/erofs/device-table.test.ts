// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import {
  type DeviceSlot,
  matchDevices,
  parseDeviceTable,
} from "../../../../src/image/erofs/device-table.ts";
import type { Superblock } from "../../../../src/image/erofs/superblock.ts";
import type { EROFSLayer } from "../../../../src/image/image.ts";
import { faultOf } from "../../../support/faults.ts";
import { digestOf } from "../../../support/oci-image.ts";

function layerOf(seed: number, size = 8192): EROFSLayer {
  return { digest: digestOf(Uint8Array.of(seed)), size, mediaType: "application/vnd.erofs" };
}

function superblockOf(fields: Partial<Superblock> = {}): Superblock {
  return {
    blocks: 2,
    compressed: false,
    features: [],
    wideBlocks: false,
    deviceCount: 0,
    deviceTable: undefined,
    ...fields,
  };
}

function slotOf(tag = "", blocks = 2): DeviceSlot {
  return { tag, blocks, mappedBlock: 0 };
}

const [a, b, c] = [layerOf(1), layerOf(2), layerOf(3)];
const bootstrap = layerOf(9);

function match(
  slots: readonly DeviceSlot[],
  devices: readonly EROFSLayer[],
  superblock = superblockOf(),
): readonly EROFSLayer[] {
  return matchDevices(superblock, slots, { bootstrap, devices }, "x").map(({ layer }) => layer);
}

const hexOf = (layer: EROFSLayer): string => layer.digest.slice("sha256:".length);

describe("matching slots to layers", () => {
  it("goes by order when tags are empty or plain text", () => {
    expect(match([slotOf(), slotOf("base"), slotOf()], [a, b, c])).toEqual([a, b, c]);
  });

  it("remembers tags", () => {
    const devices = matchDevices(
      superblockOf(),
      [slotOf("base")],
      { bootstrap, devices: [a] },
      "x",
    );
    expect(devices).toEqual([{ index: 0, layer: a, tag: "base" }]);
  });

  it("goes by tag when tags are digests, in hex or cut to the tag's length", () => {
    expect(match([slotOf(hexOf(c)), slotOf(hexOf(a)), slotOf(hexOf(b))], [a, b, c])).toEqual([
      c,
      a,
      b,
    ]);
    expect(match([slotOf(hexOf(b).toUpperCase()), slotOf(a.digest.slice(0, 64))], [a, b])).toEqual([
      b,
      a,
    ]);
  });

  it("gives what is left, in order, to slots that name none", () => {
    expect(match([slotOf(), slotOf(hexOf(a)), slotOf("text")], [a, b, c])).toEqual([b, a, c]);
  });

  it.each<[string, () => unknown, RegExp]>([
    ["more slots than layers", () => match([slotOf(), slotOf()], [a]), /2 slots.*1 device/],
    ["fewer slots than layers", () => match([], [a]), /0 slots.*1 device/],
    ["a tag of a stranger", () => match([slotOf(hexOf(c))], [a]), /not in the manifest/],
    [
      "two slots for one layer",
      () => match([slotOf(hexOf(a)), slotOf(hexOf(a))], [a, b]),
      /two slots/,
    ],
    ["a slot longer than its layer", () => match([slotOf("", 3)], [a]), /3 blocks.* 2$/],
    ["a truncated image", () => match([], [], superblockOf({ blocks: 3 })), /truncated/],
    [
      "a table behind the image's end",
      () => match([], [], superblockOf({ deviceTable: { offset: 8192, length: 128 } })),
      /device table ends/,
    ],
  ])("refuses %s", (_, run, reason) => {
    const fault = faultOf(run);
    expect(fault.code).toBe("image_invalid");
    expect("detail" in fault ? fault.detail : "").toMatch(reason);
  });

  it("counts the last, shorter block of a device", () => {
    const odd = layerOf(4, 4097);
    expect(match([slotOf("", 2)], [odd])).toEqual([odd]);
  });
});

describe("parsing slots", () => {
  const table = new Uint8Array(256);
  const view = new DataView(table.buffer);
  table.set(new TextEncoder().encode(hexOf(a)), 0);
  view.setUint32(64, 7, true);
  view.setUint32(68, 128, true);
  table.set(new TextEncoder().encode("disk\0junk"), 128);
  view.setUint32(128 + 64, 1, true);
  view.setUint16(128 + 72, 1, true);

  it("reads tags up to 64 bytes or the first NUL", () => {
    const slots = parseDeviceTable(table, superblockOf({ deviceCount: 2 }), "x");
    expect(slots).toEqual([
      { tag: hexOf(a), blocks: 7, mappedBlock: 128 },
      { tag: "disk", blocks: 1, mappedBlock: 0 },
    ]);
  });

  it("reads 48-bit counts where the superblock says so", () => {
    const wide = superblockOf({ deviceCount: 2, wideBlocks: true });
    expect(parseDeviceTable(table, wide, "x")[1]?.blocks).toBe(2 ** 32 + 1);
  });

  it.each([0, 128, 255, 257])("refuses a table of %d bytes for two slots", (length) => {
    const bytes = new Uint8Array(length);
    const fault = faultOf(() => parseDeviceTable(bytes, superblockOf({ deviceCount: 2 }), "x"));
    expect(fault.code).toBe("image_invalid");
  });
});
