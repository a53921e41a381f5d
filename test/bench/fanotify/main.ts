// SPDX-License-Identifier: Apache-2.0
// The fanotify door on this machine's kernel, by hand, as root.

import type { Report } from "../report.ts";
import { benchBeside } from "./beside.ts";
import { benchCold } from "./cold.ts";
import { benchEvents } from "./events.ts";
import { BenchSite } from "./site.ts";
import { benchTraced } from "./traced.ts";
import { benchWarm } from "./warm.ts";

const WORKLOADS: Readonly<Record<string, (report: Report, site: BenchSite) => Promise<void>>> = {
  cold: benchCold,
  warm: benchWarm,
  events: benchEvents,
};

/** `only`: names of workloads, all when empty. */
export async function benchFanotify(
  report: Report,
  home: string,
  only: readonly string[],
): Promise<void> {
  const isWanted = (name: string): boolean => only.length === 0 || only.includes(name);
  if (Object.keys(WORKLOADS).some(isWanted)) {
    const site = await BenchSite.start(home);
    try {
      for (const [name, run] of Object.entries(WORKLOADS))
        if (isWanted(name)) await run(report, site);
    } finally {
      await site.stop();
    }
  }
  if (isWanted("traced")) await benchTraced(report, home);
  if (isWanted("nydus3")) await benchBeside(report, home);
}
