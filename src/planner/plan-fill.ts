// SPDX-License-Identifier: Apache-2.0
// Decides what to fetch for one kernel request: pure, offsets in, offsets out.
//
//   want        |--------------|
//   cached          ####                        ########
//   in flight   ==
//   window        |<------- windowBytes ------->|
//   fetches       ^^    ^^^^^^^^^^^^^^^^^^^^^^^^
//
// Cached bytes are not fetched again, bytes in flight are joined, the first missing byte
// starts the window, and read-ahead stops at the first thing we already have or are getting.

import { type Extent, extentEnd } from "../units.ts";

export interface FillQuestion {
  /** What a reader waits for, in whole 4 KiB blocks. */
  readonly want: Extent;
  /** How far to read past the first missing byte; at least one block. */
  readonly windowBytes: number;
  /** No single fetch is longer than this (the size of a buffer). */
  readonly fetchBytesMax: number;
  /** Logical size of the stream rounded up to whole blocks. */
  readonly streamEnd: number;
  /** The parts of an extent that are not cached, in order. */
  readonly missing: (extent: Extent) => readonly Extent[];
  /** Fetches under way for this stream, in any order; they do not overlap. */
  readonly inFlight: readonly Extent[];
}

export interface FillPlan {
  /** Bytes of `want` that are neither cached nor in flight, then read-ahead; in order, each at most fetchBytesMax. */
  readonly fetches: readonly Extent[];
}

/** What to fetch so that `want` becomes cached. No fetches: all of it is cached or in flight. */
export function planFill(question: FillQuestion): FillPlan {
  const { want, windowBytes, streamEnd } = question;
  const demand = minus(question.missing(clip(want, streamEnd)), question.inFlight);
  const first = demand[0];
  const last = demand.at(-1);
  if (first === undefined || last === undefined) return { fetches: [] };

  const windowEnd = Math.min(first.offset + windowBytes, streamEnd);
  const wantEnd = Math.min(extentEnd(want), streamEnd);
  // Read-ahead goes on from the last missing byte only when that byte ends the request:
  // what follows a cached end was read ahead before, or will be asked for.
  const ahead =
    extentEnd(last) === wantEnd ? { offset: wantEnd, length: windowEnd - wantEnd } : undefined;
  const wanted = [...demand];
  if (ahead !== undefined && ahead.length > 0) {
    const next = minus(question.missing(ahead), question.inFlight)[0];
    if (next !== undefined && next.offset === ahead.offset) {
      wanted[wanted.length - 1] = { offset: last.offset, length: extentEnd(next) - last.offset };
    }
  }
  return { fetches: wanted.flatMap((extent) => split(extent, question.fetchBytesMax)) };
}

/** `extents` without the bytes of `taken`; both in stream offsets, result in order. */
export function minus(extents: readonly Extent[], taken: readonly Extent[]): Extent[] {
  const cuts = taken.toSorted((a, b) => a.offset - b.offset);
  const left: Extent[] = [];
  for (const extent of extents) {
    let offset = extent.offset;
    const end = extentEnd(extent);
    for (const cut of cuts) {
      if (extentEnd(cut) <= offset) continue;
      if (cut.offset >= end) break;
      if (cut.offset > offset) left.push({ offset, length: cut.offset - offset });
      offset = Math.min(extentEnd(cut), end);
    }
    if (offset < end) left.push({ offset, length: end - offset });
  }
  return left;
}

function clip(extent: Extent, streamEnd: number): Extent {
  const offset = Math.min(extent.offset, streamEnd);
  return { offset, length: Math.min(extentEnd(extent), streamEnd) - offset };
}

function split(extent: Extent, bytesMax: number): Extent[] {
  const pieces: Extent[] = [];
  for (let offset = extent.offset; offset < extentEnd(extent); offset += bytesMax) {
    pieces.push({ offset, length: Math.min(bytesMax, extentEnd(extent) - offset) });
  }
  return pieces;
}
