// SPDX-License-Identifier: Apache-2.0
// A flow rig with a prefetcher, whose prefetch table is what the test says.

import { type PrefetchJob, Prefetcher } from "../../src/flow/prefetch/prefetcher.ts";
import type { DeviceExtent } from "../../src/image/erofs/inode.ts";
import type { SizedBlobLocation } from "../../src/source/source.ts";
import { BLOCK_BYTES, type Extent } from "../../src/units.ts";
import type { FakeObject } from "./fake-kernel.ts";
import { FlowRig, type RigOptions, blocks, patternBytes } from "./flow-rig.ts";
import { turns } from "./turns.ts";

/** So long after a READ or an OPEN prefetch begins. */
export const QUIET_MS = 100;

export class PrefetchRig extends FlowRig {
  table: DeviceExtent[] | Error = [];
  isBusy = false;
  unixMs = 5_000_000;
  readonly prefetcher: Prefetcher;

  constructor(options: RigOptions = {}) {
    super(options);
    this.prefetcher = new Prefetcher({
      engine: this.engine,
      clock: this.clock,
      log: this.log,
      isBusy: () => this.isBusy,
      unixMs: () => this.unixMs + this.clock.nowMs(),
      tableExtents: () => this.#extents(),
    });
  }

  async *#extents(): AsyncGenerator<DeviceExtent, void> {
    await Promise.resolve();
    if (this.table instanceof Error) throw this.table;
    yield* this.table;
  }

  get fetched(): Extent[] {
    return this.source.fetches.map(({ extent }) => extent);
  }

  /** Lets time pass until the engine is quiet. */
  async quiet(): Promise<void> {
    await this.clock.advance(QUIET_MS);
  }

  /** Gives every open fetch its bytes, and those that follow, until none does. */
  async finishAll(): Promise<void> {
    await turns();
    for (let rounds = 0; rounds < 1_000 && this.source.open.length > 0; rounds += 1) {
      for (const fetch of this.source.open) fetch.finish();
      await turns();
    }
  }
}

export function jobOf(devices: SizedBlobLocation[], more: Partial<PrefetchJob> = {}): PrefetchJob {
  return { devices, bootstrapPath: "/b", all: true, bandwidthRate: 0, ...more };
}

export function named(device: number, first: number, end: number): DeviceExtent {
  return { device, ...blocks(first, end) };
}

/** A job on one blob of `count` blocks that has just been opened. */
export async function opened(
  count: number,
  more: Partial<PrefetchJob> = {},
  prepare?: (object: FakeObject) => void,
): Promise<{ rig: PrefetchRig; blob: SizedBlobLocation; object: FakeObject; content: Uint8Array }> {
  const rig = new PrefetchRig();
  const content = patternBytes(count * BLOCK_BYTES);
  const blob = rig.blob(content);
  rig.prefetcher.start("a", jobOf([blob], more));
  const object = await rig.open(blob, prepare);
  return { rig, blob, object, content };
}
