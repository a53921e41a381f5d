// SPDX-License-Identifier: Apache-2.0
// Decides what to fetch for one kernel request: pure, offsets in, offsets out.
//
//   want        |--------------|
//   cached          ####                        ########
//   in flight   ==
//   extra                      |<- extraBytes ->|
//   fetches       ^^    ^^^^^^^^^^^^^^^^^^^^^^^^
//
// Cached bytes are not fetched again, bytes in flight are joined. What is missing is rounded to
// units; the last fetch runs on behind the request, as far as one request may. Neighbours whose
// gap costs less than a request of its own become one fetch.

import type { ChunkMap, CutLimits } from "../image/chunk-map.ts";
import { BLOCK_BYTES, type Extent, alignDown, extentEnd, overlaps } from "../units.ts";

/** What plans are made from. */
export interface Holdings {
  /** What is fetched and verified whole: plans are made of its units. */
  readonly map: Pick<ChunkMap, "widen" | "cut" | "stored">;
  /** No single fetch is longer than this, unless one unit is. */
  readonly fetchMax: CutLimits;
  /** Logical size of the stream rounded up to whole blocks. */
  readonly streamEnd: number;
  /** The parts of an extent that are not cached, in order. */
  readonly missing: (extent: Extent) => readonly Extent[];
  /** Fetches under way for this stream, in any order. */
  readonly inFlight: readonly Extent[];
  /** Gaps up to this long are fetched along. */
  readonly gapBytes: number;
}

export interface FillQuestion extends Holdings {
  /** What a reader waits for, in whole 4 KiB blocks. */
  readonly want: Extent;
  /** How far to read past the first missing byte in the same request; at least one block. */
  readonly windowBytes: number;
  /** A request that reads on carries no more stored bytes than this, beyond the request's own units. */
  readonly extraStoredMax: number;
}

/** Of one piece of read-ahead. */
export interface PieceLimits extends CutLimits {
  /** Pieces end at stored offsets that are multiples of it; 1: anywhere. */
  readonly alignBytes: number;
}

export interface FillPlan {
  /** The units of `want` that are neither cached nor in flight, then read-ahead; in order, each within fetchMax. */
  readonly fetches: readonly Extent[];
  /** The first part of `want` that the map does not allow to be served. */
  readonly refused: Extent | undefined;
}

/** What to fetch so that `want` becomes cached. No fetches: all of it is cached or in flight. */
export function planFill(question: FillQuestion): FillPlan {
  const { want, streamEnd } = question;
  const lacks = lacking(clip(want, streamEnd), question);
  const demand = bridged(lacks, question);
  const first = demand[0];
  const last = demand.at(-1);
  if (first === undefined || last === undefined) return { fetches: [], refused: undefined };

  const fetches: Extent[] = [];
  for (const extent of demand) {
    const end =
      extent === last
        ? shortened(question, last, aheadEnd(question, first, last))
        : extentEnd(extent);
    const { pieces, rest } = split(
      { offset: extent.offset, length: end - extent.offset },
      { map: question.map, fetchMax: () => question.fetchMax },
    );
    const ahead = { offset: extentEnd(extent), length: end - extentEnd(extent) };
    fetches.push(...worthwhile(pieces, [...lacks, ahead]));
    if (rest.length > 0 && rest.offset < extentEnd(extent)) {
      return { fetches, refused: { offset: rest.offset, length: BLOCK_BYTES } };
    }
  }
  return { fetches, refused: undefined };
}

/**
 * What to fetch of `extent`, which nobody waits for: its units that are neither cached nor in
 * flight, in pieces of at most `pieceMax` (or one unit), in order. What may not be served is left out.
 */
export function planAhead(extent: Extent, of: Holdings, pieceMax: PieceLimits): Extent[] {
  const { map } = of;
  const lacks = lacking(clip(extent, of.streamEnd), of);
  const fetchMax = (rest: Extent): CutLimits => limitsAt(rest, map, pieceMax);
  const pieces = bridged(lacks, of).flatMap((part) => split(part, { map, fetchMax }).pieces);
  return worthwhile(pieces, lacks);
}

/** A piece that begins within aligned bytes ends with them. */
function limitsAt(rest: Extent, map: Holdings["map"], pieceMax: PieceLimits): CutLimits {
  const { alignBytes, ...limits } = pieceMax;
  if (alignBytes === 1) return limits;
  const first = map.cut(rest, { logicalBytesMax: BLOCK_BYTES, storedBytesMax: BLOCK_BYTES });
  const { offset } = map.stored(first);
  return { ...limits, storedBytesMax: alignDown(offset + alignBytes, alignBytes) - offset };
}

/** Pieces without the gaps that cutting has left at their ends: those spare no request. */
function worthwhile(pieces: readonly Extent[], lacks: readonly Extent[]): Extent[] {
  return pieces.flatMap((piece) => {
    const within = lacks.filter((part) => part.length > 0 && overlaps(part, piece));
    const [first, last] = [within[0], within.at(-1)];
    if (first === undefined || last === undefined) return [];
    const offset = Math.max(piece.offset, first.offset);
    return [{ offset, length: Math.min(extentEnd(piece), extentEnd(last)) - offset }];
  });
}

/** Whole units of `extent` that are neither cached nor in flight. */
function lacking(extent: Extent, { missing, map, inFlight }: Holdings): Extent[] {
  return minus(
    joined(
      missing(extent).map((part) => map.widen(part)),
      0,
    ),
    inFlight,
  );
}

/** Parts with small gaps between them become one, where all of the gap is free and may be served. */
function bridged(parts: readonly Extent[], of: Holdings): Extent[] {
  const { gapBytes, inFlight, map } = of;
  if (parts.length < 2 || gapBytes === 0) return [...parts];
  const limits = { logicalBytesMax: gapBytes, storedBytesMax: Infinity };
  const mayFill = (gap: Extent): boolean =>
    minus([gap], inFlight)[0]?.length === gap.length && map.cut(gap, limits).length === gap.length;
  return joined(parts, gapBytes, mayFill);
}

// Where the last fetch ends: read-ahead goes on from the last missing byte only when that byte
// ends the request (what follows a cached end was read ahead before, or will be asked for), and
// ends with the last unit that is whole within the window.
function aheadEnd(question: FillQuestion, first: Extent, last: Extent): number {
  const { want, windowBytes, streamEnd, map } = question;
  const lastEnd = extentEnd(last);
  const windowEnd = Math.min(first.offset + windowBytes, streamEnd);
  if (lastEnd < Math.min(extentEnd(want), streamEnd) || lastEnd >= windowEnd) return lastEnd;
  const ahead = { offset: lastEnd, length: windowEnd - lastEnd };
  const next = minus(question.missing(ahead), question.inFlight)[0];
  if (next === undefined || next.offset !== lastEnd) return lastEnd;
  const end = extentEnd(next);
  const lastUnit = map.widen({ offset: end - BLOCK_BYTES, length: BLOCK_BYTES });
  if (extentEnd(lastUnit) === end) return end;
  return Math.max(lastUnit.offset, lastEnd);
}

/** Read-ahead goes along with `last` only as far as one background request may go. */
function shortened(
  { map, fetchMax, extraStoredMax }: FillQuestion,
  last: Extent,
  end: number,
): number {
  if (end <= extentEnd(last)) return end;
  const whole = { offset: last.offset, length: end - last.offset };
  const storedBytesMax = Math.min(fetchMax.storedBytesMax, extraStoredMax);
  return Math.max(extentEnd(last), extentEnd(map.cut(whole, { ...fetchMax, storedBytesMax })));
}

/** `extents` without the bytes of `taken`; both in stream offsets, result in order. */
export function minus(extents: readonly Extent[], taken: readonly Extent[]): Extent[] {
  if (taken.length === 0) return [...extents];
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

/** Neighbours, overlaps and those with a gap of at most `gapMax` that `mayFill`, in order, become one. */
function joined(
  extents: readonly Extent[],
  gapMax: number,
  mayFill: (gap: Extent) => boolean = () => true,
): Extent[] {
  const result: Extent[] = [];
  for (const extent of extents) {
    const before = result.at(-1);
    const beforeEnd = before === undefined ? 0 : extentEnd(before);
    const gap = extent.offset - beforeEnd;
    const isNear = gap <= 0 || (gap <= gapMax && mayFill({ offset: beforeEnd, length: gap }));
    if (before === undefined || !isNear) {
      result.push(extent);
    } else {
      const end = Math.max(beforeEnd, extentEnd(extent));
      result[result.length - 1] = { offset: before.offset, length: end - before.offset };
    }
  }
  return result;
}

/** `rest` is what may not be served, with all that follows. */
function split(
  extent: Extent,
  { map, fetchMax }: Pick<Holdings, "map"> & { readonly fetchMax: (rest: Extent) => CutLimits },
): { pieces: Extent[]; rest: Extent } {
  const pieces: Extent[] = [];
  let rest = extent;
  while (rest.length > 0) {
    const piece = map.cut(rest, fetchMax(rest));
    if (piece.length === 0) break;
    pieces.push(piece);
    rest = { offset: extentEnd(piece), length: extentEnd(rest) - extentEnd(piece) };
  }
  return { pieces, rest };
}
