// SPDX-License-Identifier: Apache-2.0
// What of an image is wanted: a set of blocks for each device, and the order in which they are to
// come where that is not the image's own.

import { BlockSet } from "../../cache/block-set.ts";
import type { DeviceExtent } from "../../image/erofs/inode.ts";
import { BLOCK_BYTES, KIB, MIB, alignDown, alignUp } from "../../units.ts";

/** How much of a set is looked at in one go. */
const LOOK_BYTES = 256 * MIB;
/** Reads of a trace that are put in order together: few at first, who starts waits for those. */
const GROUP_BYTES_FIRST = 512 * KIB;
const GROUP_BYTES_MAX = 8 * MIB;
/** Passing over a gap costs a request. */
const GAP_BYTES_MAX = 64 * KIB;

export interface Wanted {
  /** By device number. */
  readonly sets: readonly BlockSet[];
  /** Undefined: in the image's order. */
  readonly order: readonly DeviceExtent[] | undefined;
}

/** Empty sets for devices of these sizes. */
export function emptySets(sizes: readonly number[]): BlockSet[] {
  return sizes.map((sizeBytes) => new BlockSet(sizeBytes));
}

export function addBlocks(sets: readonly BlockSet[], { device, offset, length }: DeviceExtent) {
  const from = alignDown(offset, BLOCK_BYTES);
  sets[device]?.add({ offset: from, length: alignUp(offset + length, BLOCK_BYTES) - from });
}

export function wantedBytes({ sets }: Wanted): number {
  return sets.reduce((sum, set) => sum + set.cachedBytes, 0);
}

export async function* inOrder({ sets, order }: Wanted): AsyncGenerator<DeviceExtent, void> {
  if (order !== undefined) {
    yield* order;
    return;
  }
  for (const [device, set] of sets.entries()) {
    for (let offset = 0; offset < set.sizeBytes; offset += LOOK_BYTES) {
      for (const extent of set.present({ offset, length: LOOK_BYTES })) yield { device, ...extent };
    }
  }
}

/**
 * Parts in the order of time to few large ones: those that come soon after each other are put in
 * the image's order, and neighbours become one. What has come once does not come again.
 */
export function mergedInTime(
  extents: readonly DeviceExtent[],
  sizes: readonly number[],
): DeviceExtent[] {
  const sets = emptySets(sizes);
  const merged: DeviceExtent[] = [];
  let group: DeviceExtent[] = [];
  let groupBytes = 0;
  let groupBytesMax = GROUP_BYTES_FIRST;
  const flush = (): void => {
    merged.push(...joined(group));
    group = [];
    groupBytes = 0;
    groupBytesMax = Math.min(2 * groupBytesMax, GROUP_BYTES_MAX);
  };
  for (const { device, offset, length } of extents) {
    const set = sets[device];
    if (set === undefined) continue;
    const from = alignDown(offset, BLOCK_BYTES);
    const part = { offset: from, length: alignUp(offset + length, BLOCK_BYTES) - from };
    for (const fresh of set.missing(part)) {
      group.push({ device, ...fresh });
      groupBytes += fresh.length;
    }
    set.add(part);
    if (groupBytes >= groupBytesMax) flush();
  }
  flush();
  return merged;
}

function joined(extents: readonly DeviceExtent[]): DeviceExtent[] {
  const sorted = extents.toSorted((a, b) => a.device - b.device || a.offset - b.offset);
  const found: DeviceExtent[] = [];
  for (const extent of sorted) {
    const before = found.at(-1);
    const end = before === undefined ? 0 : before.offset + before.length;
    if (before?.device === extent.device && extent.offset - end <= GAP_BYTES_MAX) {
      const length = Math.max(end, extent.offset + extent.length) - before.offset;
      found[found.length - 1] = { ...before, length };
    } else {
      found.push(extent);
    }
  }
  return found;
}
