// SPDX-License-Identifier: Apache-2.0
// What one prefetch job has still to fill, in order: what failed, the files of the prefetch
// table, then whole devices. It is asked for one fetch at a time, so that what readers have
// fetched meanwhile is seen as cached.

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

/** `closed`: its device is not open. `reading`: the table is being read. `busy`: ask again soon. */
export type Step = Fill | { readonly kind: "closed" | "reading" | "busy" | "done" };

interface Segment {
  readonly device: number;
  readonly end: number;
  readonly tries: number;
  offset: number;
}

export interface CursorParts {
  readonly engine: Pick<Engine, "openFlow">;
  /** Of the devices, in the image's order. */
  readonly streamKeys: readonly string[];
  readonly files: AsyncIterator<DeviceExtent, void>;
  /** Something more of the table has been read, or `error` has ended that. */
  readonly onRead: (error: unknown) => void;
}

export class PrefetchCursor {
  readonly #parts: CursorParts;
  readonly #again: Segment[] = [];
  #current: Segment | undefined;
  #tableState: "idle" | "reading" | "over" = "idle";
  #nextDevice = 0;

  constructor(parts: CursorParts) {
    this.#parts = parts;
  }

  get isAnyOpen(): boolean {
    return this.#parts.streamKeys.some((key) => this.#parts.engine.openFlow(key) !== undefined);
  }

  /** The next fetch of at most `storedBytesMax`, or of one unit. */
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

  /** `fill` has not come: it is tried again, unless that has been done often enough. */
  putBack({ device, extent, tries }: Fill, why: "failed" | "cancelled"): void {
    const tried = why === "failed" ? tries + 1 : tries;
    if (tried >= TRIES_MAX) return;
    const end = extent.offset + extent.length;
    this.#again.push({ device, offset: extent.offset, end, tries: tried });
  }

  close(): void {
    this.#tableState = "over";
    // It only lets go of a file that is not open between two reads.
    void this.#parts.files.return?.().catch(() => undefined);
  }

  #nextWhole(all: boolean): Segment | undefined {
    if (this.#tableState !== "over" || !all) return undefined;
    if (this.#nextDevice >= this.#parts.streamKeys.length) return undefined;
    this.#current = { device: this.#nextDevice, offset: 0, end: Infinity, tries: 0 };
    this.#nextDevice += 1;
    return this.#current;
  }

  #drop(segment: Segment): void {
    if (this.#again[0] === segment) this.#again.shift();
    else this.#current = undefined;
  }

  #readOn(): Step {
    if (this.#tableState === "over") return { kind: "done" };
    if (this.#tableState === "idle") {
      this.#tableState = "reading";
      void this.#read();
    }
    return { kind: "reading" };
  }

  async #read(): Promise<void> {
    let failure: unknown;
    try {
      const { value } = await this.#parts.files.next();
      if (this.#tableState === "over") return;
      this.#tableState = value === undefined ? "over" : "idle";
      if (value !== undefined) this.#take(value);
    } catch (error) {
      this.#tableState = "over";
      failure = error;
    }
    this.#parts.onRead(failure);
  }

  // Device 0 is the bootstrap, which is on this machine.
  #take({ device, offset, length }: DeviceExtent): void {
    if (device === 0 || device > this.#parts.streamKeys.length) return;
    this.#current = { device: device - 1, offset, end: offset + length, tries: 0 };
  }
}
