// SPDX-License-Identifier: Apache-2.0
// Prefetch of all streams of a simulation, with a table drawn from its seed.

import { Prefetcher } from "../../src/flow/prefetch/prefetcher.ts";
import type { DeviceExtent } from "../../src/image/erofs/inode.ts";
import { BLOCK_BYTES } from "../../src/units.ts";
import { type FlowRig, blocks } from "./flow-rig.ts";
import type { SeededRandom } from "./seeded-random.ts";
import type { SimulatedStream } from "./simulated-streams.ts";

export function startPrefetch(
  { engine, clock, log }: FlowRig,
  random: SeededRandom,
  streams: readonly SimulatedStream[],
): Prefetcher {
  const prefetcher = new Prefetcher({
    engine,
    clock,
    log,
    unixMs: () => clock.nowMs(),
    tableExtents: () => drawTable(random),
  });
  const devices = streams.map(({ record }) => record);
  const bandwidthRate = random.chance(0.3) ? 40 * BLOCK_BYTES : 0;
  prefetcher.start("job", { devices, bootstrapPath: "/b", all: true, bandwidthRate });
  return prefetcher;
}

async function* drawTable(random: SeededRandom): AsyncGenerator<DeviceExtent, void> {
  for (let left = random.between(0, 3); left > 0; left -= 1) {
    await Promise.resolve();
    const first = random.between(0, 30);
    const extent = blocks(first, first + random.between(1, 9));
    yield { device: random.between(0, 3), ...extent };
  }
}
