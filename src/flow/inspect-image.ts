// SPDX-License-Identifier: Apache-2.0
// Looks at an image's first bytes before the kernel may: what cannot be served is refused
// with a reason, where mount(2) would only say EINVAL.

import { DaemonError } from "../errors.ts";
import {
  type DeviceSlot,
  type MatchedDevice,
  matchDevices,
  parseDeviceTable,
} from "../image/erofs/device-table.ts";
import {
  SUPERBLOCK_HEAD_BYTES,
  type Superblock,
  parseSuperblock,
} from "../image/erofs/superblock.ts";
import type { SizedBlobLocation as BlobLocation } from "../source/source.ts";
import { extentEnd } from "../units.ts";
import type { PinnedHead } from "./stream-flow.ts";

export interface Inspection {
  /** Names the image in errors. */
  readonly where: string;
  readonly stream: BlobLocation;
  /** In the manifest's order. */
  readonly devices: readonly BlobLocation[];
  /** The key was chosen by us, so its mount names the devices itself. */
  readonly isDigestKey: boolean;
  readonly servesCompressed: boolean;
}

export interface Facts {
  readonly compressed: boolean;
  /** In the device table's order. */
  readonly devices: readonly BlobLocation[];
  /** What a bare mount opens them by, "" where a slot has no tag. */
  readonly tags: readonly string[];
}

/** Faults: image_invalid, image_unsupported, and whatever fetching the head can fail with. */
export async function inspectPrimary(head: PinnedHead, inspection: Inspection): Promise<Facts> {
  const { where, stream, devices, servesCompressed } = inspection;
  const superblock = parseSuperblock(await head.bytes(SUPERBLOCK_HEAD_BYTES), where);
  if (superblock.compressed && !servesCompressed) {
    throw new DaemonError({
      code: "image_unsupported",
      where,
      detail:
        "it has compressed files, which this kernel cannot read over fscache (Linux 6.9 and newer can)",
    });
  }
  const slots = await deviceSlots(head, superblock, where);
  const matched = matchDevices(superblock, slots, { bootstrap: stream, devices }, where);
  if (!inspection.isDigestKey) refuseForeignTags(matched, where);
  return {
    compressed: superblock.compressed,
    devices: matched.map(({ layer }) => layer),
    tags: matched.map(({ tag }) => tag),
  };
}

async function deviceSlots(
  head: PinnedHead,
  superblock: Superblock,
  where: string,
): Promise<readonly DeviceSlot[]> {
  const table = superblock.deviceTable;
  if (table === undefined) return [];
  const bytes = await head.bytes(extentEnd(table));
  if (bytes.byteLength < extentEnd(table)) {
    const detail = `its device table ends at byte ${extentEnd(table)}, past the window of ${bytes.byteLength} bytes`;
    throw new DaemonError({ code: "image_unsupported", where, detail });
  }
  return parseDeviceTable(bytes.subarray(table.offset, extentEnd(table)), superblock, where);
}

// A bare mount opens each device by its slot's tag, so a tag must name one content for ever.
function refuseForeignTags(matched: readonly MatchedDevice<BlobLocation>[], where: string): void {
  const foreign = matched.find(
    ({ tag }) => tag !== "" && !/^(sha256:)?[0-9a-fA-F]{57,64}$/.test(tag),
  );
  if (foreign === undefined) return;
  throw new DaemonError({
    code: "image_unsupported",
    where,
    detail: `its device slot ${foreign.index} is named "${foreign.tag}", which is no digest; mount it with \`erofsd mount\`, which names devices by content`,
  });
}
