// SPDX-License-Identifier: Apache-2.0
// Fetches the neighbours of misses that jump about, in small pieces.
//
//   time  |-- round trip --|= miss =|-- round trip --|= next miss =|
//         ask             bytes     ask             bytes
//   idle                            |= neighbours ===|
//
// While a miss is on its way, the link carries nothing that was not asked for together with it. So
// neighbours set out right behind a miss, no more than come in a round trip and a half: they are
// here when the next one's bytes are. Beyond that one at a time for each host, which a reader who
// comes meanwhile shares the link with: hot ones at once, cold ones when the host has been left
// alone for a moment.

import { freeBytes, neighbourPiece } from "../planner/link-facts.ts";
import type { Neighbours } from "../planner/neighbourhood.ts";
import { planAhead } from "../planner/plan-fill.ts";
import type { Clock } from "../platform/clock.ts";
import { BLOCK_BYTES, type Extent, alignDown, extentEnd } from "../units.ts";
import type { OpenObject } from "./open-object.ts";
import type { StreamFlow } from "./stream-flow.ts";
import { patienceMs } from "./stream.ts";
import { holdingsOf } from "./holdings.ts";

/** Extents that wait for their time, of each heat; the oldest are forgotten. */
const EXTENTS_MAX = 64;
/** A cold neighbour waits until the host has been idle for two round trips, and this long. */
const QUIET_MS_MIN = 10;

interface Wanted {
  readonly flow: StreamFlow;
  readonly object: OpenObject;
  readonly group: object;
  /** It lies before the miss: its end is nearest. */
  readonly isBefore: boolean;
  extent: Extent;
}

class HostFill {
  readonly hot: Wanted[] = [];
  /** The newest last, which goes first. */
  readonly cold: Wanted[] = [];
  inAir = 0;
  /** When all that a reader asked for has set out at the other end. */
  notBeforeMs = 0;
  cancelTimer: (() => void) | undefined;
}

export class NeighbourFill {
  readonly #clock: Clock;
  readonly #hosts = new Map<string, HostFill>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  want(flow: StreamFlow, object: OpenObject, of: { neighbours: Neighbours; group: object }): void {
    const { host } = flow.stream;
    const fill = this.#hosts.get(host) ?? new HostFill();
    this.#hosts.set(host, fill);
    const { heat, before, behind } = of.neighbours;
    const { group } = of;
    const sides = [
      { flow, object, group, isBefore: false, extent: behind },
      { flow, object, group, isBefore: true, extent: before },
    ];
    fill[heat].push(...(heat === "hot" ? sides : sides.toReversed()));
    while (fill[heat].length > EXTENTS_MAX) fill[heat].shift();
    const { link } = flow.way;
    if (link !== undefined) {
      const comesMs = flow.parts.queue.bytesComing(host) / link.bytesPerMs;
      fill.notBeforeMs = this.#clock.nowMs() + Math.min(comesMs, link.rttMs);
    }
    this.#pump(host, fill);
  }

  stop(): void {
    for (const fill of this.#hosts.values()) fill.cancelTimer?.();
    // What is in the air ends with nothing to go on with.
    this.#hosts.clear();
  }

  #pump(host: string, fill: HostFill): void {
    fill.cancelTimer?.();
    fill.cancelTimer = undefined;
    for (;;) {
      const one = fill.hot[0] ?? fill.cold.at(-1);
      if (one === undefined) {
        if (fill.inAir === 0) this.#hosts.delete(host);
        return;
      }
      const { flow, object } = one;
      const spareBytes = freeBytes(flow.way.link) - flow.parts.queue.bytesComing(host);
      const piece = object.closed ? undefined : nextPiece(one, spareBytes);
      if (piece === undefined) {
        const queue = fill.hot[0] === one ? fill.hot : fill.cold;
        queue.splice(queue.indexOf(one), 1);
        continue;
      }
      const isFree = flow.stream.map.stored(piece).length <= spareBytes;
      if (!isFree && fill.inAir > 0) return;
      const nowMs = this.#clock.nowMs();
      const quietMs = isFree || fill.hot.length > 0 ? 0 : quietIn(flow, nowMs);
      const waitMs = Math.max(quietMs, fill.notBeforeMs - nowMs);
      if (waitMs > 0) {
        fill.cancelTimer = this.#clock.after(waitMs, () => this.#pump(host, fill));
        return;
      }
      this.#launch(host, fill, { one, piece });
    }
  }

  #launch(host: string, fill: HostFill, { one, piece }: { one: Wanted; piece: Extent }): void {
    const { flow, group, extent, isBefore } = one;
    const offset = isBefore ? extent.offset : extentEnd(piece);
    const end = isBefore ? piece.offset : extentEnd(extent);
    one.extent = { offset, length: Math.max(0, end - offset) };
    fill.inAir += 1;
    const { clock, limits } = flow.parts;
    const deadlineMs = clock.nowMs() + patienceMs(limits);
    const watch = {
      onBytes: () => undefined,
      onFailure: () => {
        // The reader who needs it will hear of it; more of the same would fail too.
        one.extent = { ...one.extent, length: 0 };
      },
      onEnd: () => {
        fill.inAir -= 1;
        if (this.#hosts.get(host) === fill) this.#pump(host, fill);
      },
    };
    flow.launch(piece, { urgency: "ahead", deadlineMs, group, watch });
  }
}

function nextPiece(one: Wanted, spareBytes: number): Extent | undefined {
  const { flow, object, extent, isBefore } = one;
  if (extent.length === 0) return undefined;
  const pieceMax = neighbourPiece(flow.way, flow.fetchMax, spareBytes);
  const planned = (part: Extent): Extent[] => planAhead(part, holdingsOf(flow, object), pieceMax);
  if (!isBefore) return planned(extent).at(0);
  const bytes = alignDown(
    Math.max(BLOCK_BYTES, pieceMax.storedBytesMax * flow.expansion),
    BLOCK_BYTES,
  );
  const length = Math.min(bytes, pieceMax.logicalBytesMax, extent.length);
  // As much as one piece carries of what is nearest; all of that may be there.
  return planned({ offset: extentEnd(extent) - length, length }).at(-1) ?? planned(extent).at(-1);
}

/** How long until the host has been left alone for long enough; 0: it has. */
function quietIn({ parts, stream, way }: StreamFlow, nowMs: number): number {
  const rttMs = way.link?.rttMs ?? 0;
  const quietMs = Math.max(2 * rttMs, QUIET_MS_MIN);
  return parts.queue.isBusy(stream.host)
    ? quietMs
    : Math.max(0, parts.queue.lastTurnMs(stream.host) + quietMs - nowMs);
}
