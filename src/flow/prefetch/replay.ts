// SPDX-License-Identifier: Apache-2.0
// Fetches what a trace says a program will read, in that order and ahead of it: as read-ahead, since
// somebody is about to ask for it. Readers join what is in the air; a read of what the trace has
// coming brings nothing more of its own.

import { DaemonError } from "../../errors.ts";
import { TouchedExtents } from "../../image/trace-files.ts";
import { gapBytes, orderedPiece } from "../../planner/link-facts.ts";
import { planAhead } from "../../planner/plan-fill.ts";
import { type ReplayRead, planReplay } from "../../planner/plan-replay.ts";
import type { Clock } from "../../platform/clock.ts";
import { type Extent, KIB, extentEnd, overlaps } from "../../units.ts";
import type { Engine } from "../engine.ts";
import { holdingsOf } from "../holdings.ts";
import type { StreamFlow } from "../stream-flow.ts";
import { patienceMs } from "../stream.ts";

/** The queue lets fewer go, as many as the link needs; these wait there, in order. */
const IN_AIR_MAX = 12;
/** With several in the air a request costs little of a round trip: smaller gaps are worth it. */
const GAP_SHARE = 1 / 4;
const GAP_UNKNOWN_BYTES = 32 * KIB;
/** A registry that fails so often has no time for guesses. */
const FAILURES_MAX = 4;

const OPEN_WAIT_MS = 2_000;
const OPEN_LOOK_MS = 5;

export interface ReplayParts {
  readonly engine: Pick<Engine, "openFlow">;
  readonly clock: Clock;
  /** By the image's device numbers, 0 for the primary one. */
  readonly streamKeys: readonly string[];
  /** In time order. */
  readonly reads: readonly ReplayRead[];
}

export interface Replayed {
  readonly requests: number;
  /** Stored bytes that were asked for. */
  readonly bytes: number;
}

export class Replay {
  readonly #parts: ReplayParts;
  readonly #plan: Iterator<ReplayRead, void>;
  readonly #coming: TouchedExtents;
  /** Pieces of the request that was planned last, not launched yet. */
  #pieces: { readonly flow: StreamFlow; readonly extent: Extent }[] = [];
  #inAir = 0;
  #failures = 0;
  #requests = 0;
  #bytes = 0;
  #isStopped = false;
  #end: (() => void) | undefined;

  constructor(parts: ReplayParts) {
    this.#parts = parts;
    this.#plan = planReplay(this.#wholeUnits(), () => this.#gapBytes());
    this.#coming = new TouchedExtents(
      parts.reads.map((read) => ({ ms: 0, stream: read.device, ...read })),
    );
  }

  /** Resolves when all of it has come, or will not. Never rejects. */
  async run(): Promise<Replayed> {
    await this.#untilOpen();
    const flows = this.#parts.streamKeys.map((key) => this.#parts.engine.openFlow(key));
    for (const [device, flow] of flows.entries()) {
      flow?.expect(this, (extent) => this.#coming.touches(device, extent));
    }
    const ended = new Promise<void>((resolve) => {
      this.#end = resolve;
    });
    this.#pump();
    await ended;
    for (const flow of flows) flow?.expect(this, undefined);
    return { requests: this.#requests, bytes: this.#bytes };
  }

  /** What is in the air goes on. */
  stop(): void {
    this.#isStopped = true;
    if (this.#inAir === 0) this.#end?.();
  }

  /** A mount opens one stream after the other; what is not open in time is left out. */
  async #untilOpen(): Promise<void> {
    const { engine, clock, streamKeys, reads } = this.#parts;
    const keys = [...new Set(reads.map(({ device }) => streamKeys[device] ?? ""))];
    const isOpen = (key: string): boolean => engine.openFlow(key) !== undefined;
    const untilMs = clock.nowMs() + OPEN_WAIT_MS;
    while (!this.#isStopped && !keys.every(isOpen) && clock.nowMs() < untilMs) {
      await new Promise<void>((resolve) => {
        clock.after(OPEN_LOOK_MS, resolve);
      });
    }
  }

  #pump(): void {
    while (!this.#isStopped && this.#inAir < IN_AIR_MAX) {
      const next = this.#next();
      if (next === undefined) break;
      this.#launch(next.flow, next.extent);
    }
    if (this.#inAir === 0) this.#end?.();
  }

  #next(): { readonly flow: StreamFlow; readonly extent: Extent } | undefined {
    for (;;) {
      const piece = this.#pieces.shift();
      if (piece !== undefined) return piece;
      const { value } = this.#plan.next();
      if (value === undefined) return undefined;
      const { device, offset, length } = value;
      const flow = this.#parts.engine.openFlow(this.#parts.streamKeys[device] ?? "");
      if (flow === undefined) continue;
      this.#pieces = piecesOf(flow, { offset, length }).map((extent) => ({ flow, extent }));
    }
  }

  #launch(flow: StreamFlow, extent: Extent): void {
    const { clock } = this.#parts;
    const deadlineMs = clock.nowMs() + patienceMs(flow.parts.limits);
    this.#inAir += 1;
    this.#requests += 1;
    this.#bytes += flow.stream.map.stored(extent).length;
    const watch = {
      onBytes: () => undefined,
      onFailure: ({ fault }: DaemonError) => {
        if (fault.code !== "cancelled") this.#failures += 1;
        if (this.#failures >= FAILURES_MAX) this.#isStopped = true;
      },
      onEnd: () => {
        this.#inAir -= 1;
        this.#pump();
      },
    };
    flow.launch(extent, { urgency: "ahead", deadlineMs, group: this, watch, isFirm: true });
  }

  /** What is fetched whole is planned whole; a unit that many reads are of comes once. */
  *#wholeUnits(): Generator<ReplayRead, void> {
    const known = new Set<string>();
    for (const { device, ...read } of this.#parts.reads) {
      const flow = this.#parts.engine.openFlow(this.#parts.streamKeys[device] ?? "");
      if (flow === undefined) continue;
      const { offset, length } = flow.stream.map.widen(read);
      const id = `${device} ${offset} ${length}`;
      if (known.has(id)) continue;
      known.add(id);
      yield { device, offset, length };
    }
  }

  #gapBytes(): number {
    for (const key of this.#parts.streamKeys) {
      const link = this.#parts.engine.openFlow(key)?.way.link;
      if (link !== undefined) return gapBytes(link) * GAP_SHARE;
    }
    return GAP_UNKNOWN_BYTES;
  }
}

/** What no open object has yet, or some lack, in requests as for a reader in order. */
function piecesOf(flow: StreamFlow, extent: Extent): Extent[] {
  const most = orderedPiece(flow.way, flow.orderedMax);
  const pieces: Extent[] = [];
  for (const object of flow.objects) {
    if (object.queued !== undefined) continue;
    for (const piece of planAhead(extent, holdingsOf(flow, object), most)) {
      if (!pieces.some((known) => overlaps(known, piece))) pieces.push(piece);
    }
  }
  return pieces.filter((piece) => extentEnd(piece) > piece.offset);
}
