// SPDX-License-Identifier: Apache-2.0
// The fanotify door on this machine's kernel, by hand, as root.

import { buildDaemon } from "../../host/support/site.ts";
import type { Report } from "../report.ts";
import { benchCold } from "./cold.ts";
import { BenchSite } from "./site.ts";

const WORKLOADS: Readonly<Record<string, (report: Report, site: BenchSite) => Promise<void>>> = {
  cold: benchCold,
};

/** `only`: names of workloads, all when empty. */
export async function benchFanotify(
  report: Report,
  home: string,
  only: readonly string[],
): Promise<void> {
  await buildDaemon();
  const site = await BenchSite.start(home);
  try {
    for (const [name, run] of Object.entries(WORKLOADS)) {
      if (only.length === 0 || only.includes(name)) await run(report, site);
    }
  } finally {
    await site.stop();
  }
}
