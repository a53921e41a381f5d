// SPDX-License-Identifier: Apache-2.0
// A cold read from start to end over loopback, beside curl that copies the same bytes to the same disk.

import { join } from "node:path";
import type { Report } from "../report.ts";
import { median } from "../host/bench.ts";
import { BIG_BYTES, BIG_FILE, type BenchSite, dropCaches, timed } from "./site.ts";

const RUNS = 5;

export async function benchCold(report: Report, site: BenchSite): Promise<void> {
  report.heading(`cold, ${Math.round(BIG_BYTES / 1e6)} MB in order over loopback`);
  const [ours, curls, mounts]: number[][] = [[], [], []];
  const copy = join(site.scratch, "copy");
  for (let run = 0; run < RUNS; run += 1) {
    await dropCaches();
    curls?.push(await timed("curl", ["-sf", "-o", copy, site.blobUrl]));
    await timed("rm", [copy]);
    const mounted = await site.mountFresh();
    await dropCaches();
    mounts?.push(mounted.mountMs);
    ours?.push(
      await timed("dd", [`if=${join(mounted.target, BIG_FILE)}`, "of=/dev/null", "bs=1M"]),
    );
    await mounted.stop();
  }
  const rate = (ms: readonly number[] = []): number => BIG_BYTES / median(ms) / 1000;
  report.add({
    part: "fanotify",
    name: "cold, through a mount",
    value: rate(ours),
    unit: "MB/s",
    reference: { name: "curl to the disk", value: rate(curls) },
    goal: { kind: "at least", value: 0.6 },
    details: { "ms mount": median(mounts ?? []) },
  });
}
