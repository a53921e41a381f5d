// SPDX-License-Identifier: Apache-2.0
// Fetches the neighbours of misses that jump about, in small pieces, one at a time for each host:
// a reader who comes meanwhile shares the link with one of them at most. Hot ones at once, cold
// ones only when the host has been left alone for a moment.

import { neighbourPiece } from "../planner/link-facts.ts";
import type { Neighbours } from "../planner/neighbourhood.ts";
import { planAhead } from "../planner/plan-fill.ts";
import type { Clock } from "../platform/clock.ts";
import { type Extent, extentEnd } from "../units.ts";
import type { OpenObject } from "./open-object.ts";
import type { StreamFlow } from "./stream-flow.ts";
import { holdingsOf } from "./holdings.ts";

/** Extents that wait for their time, of each heat; the oldest are forgotten. */
const EXTENTS_MAX = 64;
/** A cold neighbour waits until the host has been idle for two round trips, and this long. */
const QUIET_MS_MIN = 10;

interface Wanted {
  readonly flow: StreamFlow;
  readonly object: OpenObject;
  readonly group: object;
  extent: Extent;
}

class HostFill {
  readonly hot: Wanted[] = [];
  /** The newest last, which goes first. */
  readonly cold: Wanted[] = [];
  isInAir = false;
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
    const { heat, extents } = of.neighbours;
    for (const extent of extents) fill[heat].push({ flow, object, group: of.group, extent });
    while (fill[heat].length > EXTENTS_MAX) fill[heat].shift();
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
    while (!fill.isInAir) {
      const one = fill.hot[0] ?? fill.cold.at(-1);
      if (one === undefined) {
        this.#hosts.delete(host);
        return;
      }
      const quietMs = fill.hot.length > 0 ? 0 : quietIn(one.flow, this.#clock.nowMs());
      if (quietMs > 0) {
        fill.cancelTimer = this.#clock.after(quietMs, () => this.#pump(host, fill));
        return;
      }
      this.#launchNext(host, fill, one);
    }
  }

  #launchNext(host: string, fill: HostFill, one: Wanted): void {
    const { flow, object, group, extent } = one;
    const piece = object.closed ? undefined : nextPiece(flow, object, extent);
    if (piece === undefined) {
      const queue = fill.hot[0] === one ? fill.hot : fill.cold;
      queue.splice(queue.indexOf(one), 1);
      return;
    }
    const offset = extentEnd(piece);
    one.extent = { offset, length: Math.max(0, extentEnd(extent) - offset) };
    fill.isInAir = true;
    const { clock, limits } = flow.parts;
    const deadlineMs = clock.nowMs() + 0.95 * limits.readTimeoutMs;
    const watch = {
      onBytes: () => undefined,
      onFailure: () => {
        // The reader who needs it will hear of it; more of the same would fail too.
        one.extent = { ...one.extent, length: 0 };
      },
      onEnd: () => {
        fill.isInAir = false;
        if (this.#hosts.get(host) === fill) this.#pump(host, fill);
      },
    };
    flow.launch(piece, { urgency: "ahead", deadlineMs, group, watch });
  }
}

function nextPiece(flow: StreamFlow, object: OpenObject, extent: Extent): Extent | undefined {
  if (extent.length === 0) return undefined;
  const pieceMax = neighbourPiece(flow.way, flow.fetchMax);
  return planAhead(extent, holdingsOf(flow, object), pieceMax)[0];
}

/** How long until the host has been left alone for long enough; 0: it has. */
function quietIn({ parts, stream, way }: StreamFlow, nowMs: number): number {
  const rttMs = way.link?.rttMs ?? 0;
  const quietMs = Math.max(2 * rttMs, QUIET_MS_MIN);
  return parts.queue.isBusy(stream.host)
    ? quietMs
    : Math.max(0, parts.queue.lastTurnMs(stream.host) + quietMs - nowMs);
}
