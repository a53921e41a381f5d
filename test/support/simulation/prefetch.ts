// SPDX-License-Identifier: Apache-2.0
// Prefetch of all streams of a simulation, with the table of its world.

import { Prefetcher } from "../../../src/flow/prefetch/prefetcher.ts";
import type { DeviceExtent } from "../../../src/image/erofs/inode.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import type { FlowRig } from "../flow-rig.ts";
import type { SimulatedStream } from "./streams.ts";

const JOB = "job";

export class SimulatedPrefetch {
  readonly #prefetcher: Prefetcher;
  readonly #streams: readonly SimulatedStream[];

  constructor(
    { engine, clock, log }: FlowRig,
    of: { streams: readonly SimulatedStream[]; table: readonly DeviceExtent[] },
  ) {
    this.#streams = of.streams;
    this.#prefetcher = new Prefetcher({
      engine,
      clock,
      log,
      unixMs: () => clock.nowMs(),
      tableExtents: () => entries(of.table),
    });
  }

  /** `rateBlocks`: a second, 0: no limit. */
  start(rateBlocks: number): void {
    const devices = this.#streams.map(({ record }) => record);
    const bandwidthRate = rateBlocks * BLOCK_BYTES;
    this.#prefetcher.start(JOB, { devices, bootstrapPath: "/b", all: true, bandwidthRate });
  }

  cancel(): void {
    this.#prefetcher.cancel(JOB);
  }

  stop(): void {
    this.#prefetcher.stop();
  }
}

async function* entries(table: readonly DeviceExtent[]): AsyncGenerator<DeviceExtent, void> {
  for (const entry of table) {
    await Promise.resolve();
    yield entry;
  }
}
