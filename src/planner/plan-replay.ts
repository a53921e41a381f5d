// SPDX-License-Identifier: Apache-2.0
// From the reads of a trace to requests, in the order in which they will be wanted. Reads that are
// near in time are merged where they are near in the stream: little by little at first, so that the
// first are soon there, then more at once, for fewer and larger requests. Pure.
//
//   reads in time   a d b | c f e h g ...        windows: 256 KiB, 1 MiB, 4 MiB, 16 MiB, 32 MiB ...
//   requests        ab d  | c ef gh ...          gaps up to `gapBytes` are fetched along

import { BLOCK_BYTES, type Extent, KIB, MIB, alignDown, extentEnd } from "../units.ts";

const WINDOW_FIRST_BYTES = 256 * KIB;
const WINDOW_MAX_BYTES = 32 * MIB;
const WINDOW_GROWTH = 4;

export interface ReplayRead extends Extent {
  /** The image's device: 0 is the primary one. */
  readonly device: number;
}

interface Wanted extends ReplayRead {
  /** Place among the reads. */
  readonly at: number;
}

/** Each block once. `gapBytes` is asked for each window: what is known of the link grows. */
export function* planReplay(
  reads: Iterable<ReplayRead>,
  gapBytes: () => number,
): Generator<ReplayRead, void> {
  const seen = new Map<number, Set<number>>();
  let window: Wanted[] = [];
  let bytes = 0;
  let windowBytes = WINDOW_FIRST_BYTES;
  let at = 0;
  for (const read of reads) {
    for (const part of unseen(read, seen)) {
      window.push({ ...part, at });
      bytes += part.length;
    }
    at += 1;
    if (bytes < windowBytes) continue;
    yield* merged(window, gapBytes());
    window = [];
    bytes = 0;
    windowBytes = Math.min(windowBytes * WINDOW_GROWTH, WINDOW_MAX_BYTES);
  }
  yield* merged(window, gapBytes());
}

/** Whole blocks of the read that no read before it had. */
function unseen(read: ReplayRead, seen: Map<number, Set<number>>): ReplayRead[] {
  const { device } = read;
  const blocks = seen.get(device) ?? new Set<number>();
  seen.set(device, blocks);
  const parts: ReplayRead[] = [];
  for (let offset = alignDown(read.offset, BLOCK_BYTES); offset < extentEnd(read); ) {
    const next = offset + BLOCK_BYTES;
    if (!blocks.has(offset)) {
      blocks.add(offset);
      const before = parts.at(-1);
      const goesOn = before !== undefined && extentEnd(before) === offset;
      if (goesOn) parts[parts.length - 1] = { ...before, length: next - before.offset };
      else parts.push({ device, offset, length: BLOCK_BYTES });
    }
    offset = next;
  }
  return parts;
}

function merged(window: readonly Wanted[], gapBytes: number): ReplayRead[] {
  const sorted = window.toSorted((a, b) => a.device - b.device || a.offset - b.offset);
  const requests: Wanted[] = [];
  for (const part of sorted) {
    const before = requests.at(-1);
    const isNear = before?.device === part.device && part.offset - extentEnd(before) <= gapBytes;
    if (before === undefined || !isNear) {
      requests.push(part);
      continue;
    }
    const length = extentEnd(part) - before.offset;
    requests[requests.length - 1] = { ...before, length, at: Math.min(before.at, part.at) };
  }
  return requests
    .sort((a, b) => a.at - b.at)
    .map(({ device, offset, length }) => ({ device, offset, length }));
}
