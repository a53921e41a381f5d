// SPDX-License-Identifier: Apache-2.0
// The whole engine on two nodes, each beside its peer: both read the same image from start to end,
// one after the other.

import { HostBench } from "../host/bench.ts";
import type { Report } from "../report.ts";
import type { Network, Peer } from "./network.ts";

const SHAPE = { roundTripMs: 20, bandwidth: 50_000_000 };
const WORKLOAD = { kind: "sequential", readers: 1 } as const;

/** `home`: where the images of the host's benchmark are kept. */
export async function measureEngine(
  report: Report,
  part: string,
  { home, network }: { readonly home: string; readonly network: Network },
): Promise<void> {
  const bench = await HostBench.start(report, home);
  try {
    await bench.shape(SHAPE);
    const image = bench.images["rafs-64"];
    const alone = await bench.run(image, WORKLOAD);
    for (const [at, peer] of network.peers.entries()) {
      const run = await bench.run(image, WORKLOAD, { config: configOf(peer) });
      report.add({
        part,
        name: `engine on node ${at + 1} reads ${image.name}: link carried`,
        value: (100 * run.linkBytes) / image.storedBytes,
        unit: "%",
        ...(at === 1 && { goal: { kind: "at most", value: 10 } }),
        details: { seconds: run.ms / 1000, "straight, seconds": alone.ms / 1000 },
      });
    }
  } finally {
    await bench.stop();
  }
}

function configOf({ proxyUrl, healthUrl }: Peer): string {
  return `[p2p]\nproxy = ${JSON.stringify(proxyUrl)}\nhealth = ${JSON.stringify(healthUrl)}\n`;
}
