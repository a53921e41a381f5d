// SPDX-License-Identifier: Apache-2.0
// The EROFS device table: one 128-byte slot for each extra device, and which layer of the image
// is behind each slot. The manifest's order decides; a slot whose tag is a digest names its layer
// itself, and a tag that contradicts the manifest is refused rather than guessed around.
// Sources: fs/erofs/erofs_fs.h, struct erofs_deviceslot; EROFS image layer format, section 8.1.

import { DaemonError, invariant } from "../../errors.ts";
import { BLOCK_BYTES, alignUp } from "../../units.ts";
import type { EROFSLayer } from "../image.ts";
import type { Superblock } from "./superblock.ts";

const SLOT_BYTES = 128;
const TAG_BYTES = 64;
const BLOCKS = 64;
const MAPPED_BLOCK = 68;
const BLOCKS_HIGH = 72;
const MAPPED_BLOCK_HIGH = 74;

/** A hex digest, or as much of `sha256:<hex>` as fits into a tag. */
const TAG_HEX = /^[0-9a-fA-F]{64}$/;
const TAG_PREFIXED = /^sha256:[0-9a-f]{57}$/;

export interface DeviceSlot {
  /** Up to the first NUL, one character a byte; empty when mkfs wrote none. */
  readonly tag: string;
  /** Blocks of 4 KiB on the device; 0 when mkfs wrote none (erofs-utils 1.5 does not). */
  readonly blocks: number;
  /** Where the device lies in the flat address space, in blocks; 0 when it is not in it. */
  readonly mappedBlock: number;
}

/** What is asked of a layer here, wherever it is described. */
export type SizedLayer = Pick<EROFSLayer, "digest" | "size">;

export interface MatchedDevice<L extends SizedLayer = EROFSLayer> {
  /** Place in the device table, from 0: the kernel opens devices in this order. */
  readonly index: number;
  readonly layer: L;
  readonly tag: string;
}

/** `bytes` is exactly superblock.deviceTable of the primary device. Faults: image_invalid. */
export function parseDeviceTable(
  bytes: Uint8Array,
  superblock: Pick<Superblock, "deviceCount" | "wideBlocks">,
  where: string,
): readonly DeviceSlot[] {
  const length = superblock.deviceCount * SLOT_BYTES;
  if (bytes.length !== length) {
    throw invalid(where, `its device table is cut: ${bytes.length} of ${length} bytes`);
  }
  return Array.from({ length: superblock.deviceCount }, (_, index) =>
    parseSlot(bytes.subarray(index * SLOT_BYTES, (index + 1) * SLOT_BYTES), superblock.wideBlocks),
  );
}

/**
 * The layer behind each slot, in the table's order. Faults: image_invalid when counts differ, a
 * tag names no layer, or a layer is shorter than its slot or superblock says.
 */
export function matchDevices<L extends SizedLayer>(
  superblock: Superblock,
  slots: readonly DeviceSlot[],
  plan: { readonly bootstrap: SizedLayer; readonly devices: readonly L[] },
  where: string,
): readonly MatchedDevice<L>[] {
  checkPrimary(superblock, plan.bootstrap, where);
  const { devices } = plan;
  if (slots.length !== devices.length) {
    throw invalid(
      where,
      `its device table has ${slots.length} slots, its manifest ${devices.length} device layers`,
    );
  }
  const named = slots.map((slot, index) => namedLayer(slot, index, devices, where));
  const claimed = named.filter((layer) => layer !== undefined);
  const taken = new Set(claimed);
  if (taken.size < claimed.length) {
    throw invalid(where, "two slots of its device table name the same layer");
  }
  // As many layers are left as slots that name none: the counts are equal.
  const rest = devices.filter((layer) => !taken.has(layer)).values();
  return slots.map((slot, index) => {
    const layer = named[index] ?? rest.next().value;
    invariant(layer !== undefined, "a slot without a layer");
    checkSlot(slot, index, layer, where);
    return { index, layer, tag: slot.tag };
  });
}

/** The image must not reach past its blob; the device table must lie in the image. */
function checkPrimary(superblock: Superblock, bootstrap: SizedLayer, where: string): void {
  const bytes = superblock.blocks * BLOCK_BYTES;
  if (bytes > bootstrap.size) {
    throw invalid(
      where,
      `it is truncated: ${bytes} bytes by its superblock, ${bootstrap.size} stored`,
    );
  }
  const table = superblock.deviceTable;
  if (table !== undefined && table.offset + table.length > bootstrap.size) {
    throw invalid(where, `its device table ends behind the ${bootstrap.size} bytes stored`);
  }
}

function checkSlot(slot: DeviceSlot, index: number, layer: SizedLayer, where: string): void {
  // A device may be any byte stream; the tail of its last block reads as zeros.
  const blocks = alignUp(layer.size, BLOCK_BYTES) / BLOCK_BYTES;
  if (slot.blocks > blocks) {
    throw invalid(
      where,
      `slot ${index} of its device table has ${slot.blocks} blocks, layer ${layer.digest} ${blocks}`,
    );
  }
}

function namedLayer<L extends SizedLayer>(
  slot: DeviceSlot,
  index: number,
  devices: readonly L[],
  where: string,
): L | undefined {
  const prefix = digestPrefix(slot.tag);
  if (prefix === undefined) return undefined;
  const layer = devices.find(({ digest }) => digest.startsWith(prefix));
  if (layer === undefined) {
    throw invalid(where, `slot ${index} of its device table is for ${prefix}, not in the manifest`);
  }
  return layer;
}

function digestPrefix(tag: string): string | undefined {
  if (TAG_HEX.test(tag)) return `sha256:${tag.toLowerCase()}`;
  return TAG_PREFIXED.test(tag) ? tag : undefined;
}

function parseSlot(bytes: Uint8Array, wideBlocks: boolean): DeviceSlot {
  const view = new DataView(bytes.buffer, bytes.byteOffset, SLOT_BYTES);
  const wide = (low: number, high: number): number =>
    (wideBlocks ? view.getUint16(high, true) * 2 ** 32 : 0) + view.getUint32(low, true);
  const field = bytes.subarray(0, TAG_BYTES);
  const end = field.indexOf(0);
  return {
    tag: String.fromCharCode(...field.subarray(0, end === -1 ? TAG_BYTES : end)),
    blocks: wide(BLOCKS, BLOCKS_HIGH),
    mappedBlock: wide(MAPPED_BLOCK, MAPPED_BLOCK_HIGH),
  };
}

function invalid(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_invalid", where, detail });
}
