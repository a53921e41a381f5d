// SPDX-License-Identifier: Apache-2.0
// What a measured link makes cheap or dear: how large requests to it should be. Pure.

import type { CutLimits } from "../image/chunk-map.ts";
import { BLOCK_BYTES, KIB, MIB, alignDown } from "../units.ts";
import type { PieceLimits } from "./plan-fill.ts";

/** Of the way to one host, as it has shown itself. */
export interface LinkFacts {
  /** From a request to its first byte, at best. */
  readonly rttMs: number;
  /** What all requests together get. */
  readonly bytesPerMs: number;
}

/** What peers share: ranges from and to whole multiples of `alignBytes`, `preferBytes` at once. */
export interface SharedPieces {
  readonly alignBytes: number;
  readonly preferBytes: number;
}

/** How to reach a host: as measured, and through peers if there are any. */
export interface Way {
  readonly link: LinkFacts | undefined;
  readonly shared: SharedPieces | undefined;
}

/** A reader who comes while a background request is in the air shares the link for no longer. */
const PIECE_MS = 50;
const PIECE_BYTES_MIN = 256 * KIB;
const PIECE_BYTES_MAX = MIB;
const SPARE_BYTES_MIN = 64 * KIB;
const ORDERED_MS = 50;
const ORDERED_BYTES_MIN = MIB;
/** 200 MB/s: 1 MiB takes 5 ms. */
const FAST = 200_000;
const LONG_BYTES = 64 * MIB;
/** Passing over a gap as if it were wanted may cost this share of a round trip, and this much. */
const GAP_RTT_SHARE = 1 / 4;
const GAP_BYTES_MAX = 256 * KIB;
/** What a reader who jumps about gets beyond its units: a quarter more than it waits anyhow. */
const STRAY_RTT_SHARE = 1 / 4;
/** A reader in order has enough ahead of him for the link to be full through its pauses. */
const AHEAD_MS = 50;
/** What sets out when a round trip and so much more is still to come finds the link busy. */
const AIR_MS = 15;
const AIR_BYTES_MIN = MIB;
const AIR_BYTES_MAX = 16 * MIB;
/** From a miss to the next, in round trips: its bytes are written, and the reader goes on. */
const NEXT_MISS_RTTS = 3 / 2;
/** Who comes meanwhile shares the link with what is for nobody yet for no longer. */
const FREE_MS_MAX = 50;

/** Stored bytes of one background request. Without facts: what a slow link carries quickly. */
export function pieceBytes(link: LinkFacts | undefined): number {
  if (link === undefined) return PIECE_BYTES_MIN;
  const bytes = Math.min(Math.max(link.bytesPerMs * PIECE_MS, PIECE_BYTES_MIN), PIECE_BYTES_MAX);
  return alignDown(bytes, BLOCK_BYTES);
}

/**
 * Limits of one background fetch; `most` is what memory allows. What peers share is cut where they
 * cut it, also when it is more: they hand out nothing smaller.
 */
export function backgroundPiece({ link, shared }: Way, most: CutLimits): PieceLimits {
  if (shared === undefined) return { ...most, storedBytesMax: pieceBytes(link), alignBytes: 1 };
  const { alignBytes } = shared;
  return { logicalBytesMax: 2 * alignBytes, storedBytesMax: alignBytes, alignBytes };
}

/**
 * Of a guess, which a reader who jumps about meets more often than not: what the link has nothing
 * else to do for, if that is worth a request, or a quarter of a piece.
 */
export function neighbourPiece(way: Way, most: CutLimits, spareBytes: number): PieceLimits {
  const piece = backgroundPiece(way, most);
  if (way.shared !== undefined) return piece;
  const isWorthIt = spareBytes >= SPARE_BYTES_MIN;
  const bytes = isWorthIt ? Math.min(spareBytes, piece.storedBytesMax) : piece.storedBytesMax / 4;
  return { ...piece, storedBytesMax: alignDown(bytes, BLOCK_BYTES) };
}

/** Stored bytes of a demand request that reads on. Without facts it may: one request is soonest. */
export function demandBytes(link: LinkFacts | undefined): number {
  return link === undefined ? PIECE_BYTES_MAX : pieceBytes(link);
}

/**
 * Limits of one request for what a reader in order will ask for next. What comes in one stream comes
 * in order: he follows it, and the next request goes out long before the last byte of this one. Who
 * comes meanwhile shares the link with fewer requests the longer they are.
 */
export function orderedPiece(way: Way, most: CutLimits): PieceLimits {
  if (way.shared !== undefined) return backgroundPiece(way, most);
  const bytes = alignDown((way.link?.bytesPerMs ?? 0) * ORDERED_MS, BLOCK_BYTES);
  const storedBytesMax = Math.min(Math.max(bytes, ORDERED_BYTES_MIN), most.storedBytesMax);
  return { ...most, storedBytesMax, alignBytes: 1 };
}

/**
 * Stored bytes that a request for somebody who goes on in order may bring beyond its own. Where a
 * request is over in no time, what it costs at both ends is most of it; where it is not, what
 * nobody asks for in the end would take the link.
 */
export function longBytes({ link, shared }: Way): number {
  return link === undefined || shared !== undefined || link.bytesPerMs < FAST ? 0 : LONG_BYTES;
}

/** A gap up to this long is fetched along: one request is cheaper than two. */
export function gapBytes(link: LinkFacts | undefined): number {
  if (link === undefined) return 0;
  const bytes = Math.min(link.bytesPerMs * link.rttMs * GAP_RTT_SHARE, GAP_BYTES_MAX);
  return alignDown(bytes, BLOCK_BYTES);
}

/** How far a miss of a reader without a pattern is read ahead. */
export function strayBytes(link: LinkFacts | undefined): number {
  if (link === undefined) return BLOCK_BYTES;
  const bytes = Math.min(link.bytesPerMs * link.rttMs * STRAY_RTT_SHARE, PIECE_BYTES_MAX);
  return Math.max(BLOCK_BYTES, alignDown(bytes, BLOCK_BYTES));
}

/** Stored bytes that the link carries from one miss to the next, 50 ms of it at most. */
export function freeBytes(link: LinkFacts | undefined): number {
  if (link === undefined) return 0;
  return link.bytesPerMs * Math.min(link.rttMs * NEXT_MISS_RTTS, FREE_MS_MAX);
}

/** Stored bytes to be ahead of a reader so that the link stays full. Peers are slow to begin. */
export function fullBytes({ link, shared }: Way): number {
  if (shared !== undefined) return shared.preferBytes;
  return link === undefined ? 0 : link.bytesPerMs * (2 * link.rttMs + AHEAD_MS);
}

/**
 * While no more stored bytes than this are to come from a host, another request of read-ahead or
 * prefetch may set out: its first byte comes when the last of those before it does. Were
 * more in the air, what is needed later would come in the place of what is needed now.
 */
export function airBytes({ link, shared }: Way): number {
  if (shared !== undefined) return 2 * shared.preferBytes - shared.alignBytes;
  if (link === undefined) return AIR_BYTES_MIN;
  const bytes = link.bytesPerMs * (link.rttMs + AIR_MS);
  return Math.min(Math.max(bytes, AIR_BYTES_MIN), AIR_BYTES_MAX);
}
