// SPDX-License-Identifier: Apache-2.0
// What one prefetch job has still to fill, in order: what failed, the parts that its plan names,
// then whole devices. It is asked for one fetch at a time, so that what readers have fetched
// meanwhile is seen as cached.

import type { DeviceExtent } from "../../image/erofs/inode.ts";
import { planBefore } from "./next.ts";
import type { Engine } from "../engine.ts";
import type { StreamFlow } from "../stream-flow.ts";
import type { Extent } from "../../units.ts";

/** One extent is tried so often; a unit that is bad must not keep the rest waiting for ever. */
const TRIES_MAX = 3;
/** Cached parts that are passed over before the event loop gets its turn. */
const LOOKS_MAX = 256;

export interface Fill {
  readonly kind: "fill";
  readonly flow: StreamFlow;
  readonly device: number;
  readonly extent: Extent;
  readonly tries: number;
}

/** `closed`: its device is not open. `reading`: the plan is being read. `busy`: ask again soon. */
export type Step = Fill | { readonly kind: "closed" | "reading" | "busy" | "done" };

interface Segment {
  readonly device: number;
  readonly end: number;
  readonly tries: number;
  offset: number;
}

export interface CursorParts {
  readonly engine: Pick<Engine, "openFlow">;
  /** By the image's device numbers, 0 for the primary one; undefined: it is not filled. */
  readonly streamKeys: readonly (string | undefined)[];
  readonly plan: AsyncIterator<DeviceExtent, void>;
  /** Something more of the plan has been read, or `error` has ended that. */
  readonly onRead: (error: unknown) => void;
}

export class PrefetchCursor {
  readonly #parts: CursorParts;
  readonly #again: Segment[] = [];
  #current: Segment | undefined;
  #planState: "idle" | "reading" | "over" = "idle";
  #nextDevice = 0;

  constructor(parts: CursorParts) {
    this.#parts = parts;
  }

  get isAnyOpen(): boolean {
    const { engine, streamKeys } = this.#parts;
    return streamKeys.some((key) => key !== undefined && engine.openFlow(key) !== undefined);
  }

  /** The next fetch of at most `storedBytesMax`, or of one unit. `all`: whole devices too. */
  next(storedBytesMax: number, all: boolean): Step {
    for (let looks = 0; looks < LOOKS_MAX; looks += 1) {
      const segment = this.#again[0] ?? this.#current ?? this.#nextWhole(all);
      if (segment === undefined) return this.#readOn();
      const flow = this.#parts.engine.openFlow(this.#parts.streamKeys[segment.device] ?? "");
      if (flow === undefined) return { kind: "closed" };
      const { device, tries } = segment;
      const found = planBefore(flow, segment, storedBytesMax);
      segment.offset = found.next;
      if (segment.offset >= Math.min(segment.end, flow.streamEnd)) this.#drop(segment);
      if (found.extent !== undefined) {
        return { kind: "fill", flow, device, extent: found.extent, tries };
      }
    }
    return { kind: "busy" };
  }

  /**
   * `fill` has not come: it is tried again, unless it has failed often enough; `later` does not
   * count. False: it is given up.
   */
  putBack({ device, extent, tries }: Fill, why: "failed" | "later"): boolean {
    const tried = why === "failed" ? tries + 1 : tries;
    if (tried >= TRIES_MAX) return false;
    const end = extent.offset + extent.length;
    this.#again.push({ device, offset: extent.offset, end, tries: tried });
    return true;
  }

  close(): void {
    this.#planState = "over";
    // It only lets go of a file that is not open between two reads.
    void this.#parts.plan.return?.().catch(() => undefined);
  }

  #nextWhole(all: boolean): Segment | undefined {
    if (this.#planState !== "over" || !all) return undefined;
    const { streamKeys } = this.#parts;
    while (this.#nextDevice < streamKeys.length) {
      const device = this.#nextDevice;
      this.#nextDevice += 1;
      if (streamKeys[device] === undefined) continue;
      this.#current = { device, offset: 0, end: Infinity, tries: 0 };
      return this.#current;
    }
    return undefined;
  }

  #drop(segment: Segment): void {
    if (this.#again[0] === segment) this.#again.shift();
    else this.#current = undefined;
  }

  #readOn(): Step {
    if (this.#planState === "over") return { kind: "done" };
    if (this.#planState === "idle") {
      this.#planState = "reading";
      void this.#read();
    }
    return { kind: "reading" };
  }

  async #read(): Promise<void> {
    let failure: unknown;
    try {
      const { value } = await this.#parts.plan.next();
      if (this.#planState === "over") return;
      this.#planState = value === undefined ? "over" : "idle";
      if (value !== undefined) this.#take(value);
    } catch (error) {
      this.#planState = "over";
      failure = error;
    }
    this.#parts.onRead(failure);
  }

  #take({ device, offset, length }: DeviceExtent): void {
    if (this.#parts.streamKeys[device] === undefined) return;
    this.#current = { device, offset, end: offset + length, tries: 0 };
  }
}
