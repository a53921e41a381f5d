// SPDX-License-Identifier: Apache-2.0
// A read of an image that is complete, beside the same image mounted from a plain file: both from
// the disk, in turns.

import { execFile } from "node:child_process";
import { cp, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { mountErofs, unmount } from "../../../src/kernel/mount.ts";
import { median } from "../host/bench.ts";
import type { Report } from "../report.ts";
import { BIG_BYTES, BIG_FILE, type BenchSite, dropCaches, timed } from "./site.ts";

const exec = promisify(execFile);
const ROUNDS = 20;

export async function benchWarm(report: Report, site: BenchSite): Promise<void> {
  report.heading("warm, a complete image beside a plain file");
  const mounted = await site.mountFresh('[engine]\nfill = "background"');
  const [plain, copy] = [join(site.scratch, "plain"), join(site.scratch, "plain.erofs")];
  await mkdir(plain);
  // Written now, as the cache file is: where on the disk a file lies must not decide.
  await cp(site.image, copy);
  mountErofs({ primary: copy, devices: [] }, plain);
  try {
    while (await isMarked(mounted.daemon.pid)) await new Promise((done) => setTimeout(done, 100));
    const read = async (directory: string): Promise<number> => {
      await dropCaches();
      const big = `if=${join(directory, BIG_FILE)}`;
      return timed("dd", [big, "of=/dev/null", "bs=1M", "status=none"]);
    };
    const both = { ours: mounted.target, theirs: plain };
    const took: Record<keyof typeof both, number[]> = { ours: [], theirs: [] };
    await read(plain);
    for (let round = 0; round < ROUNDS; round += 1) {
      const order = round % 2 === 0 ? (["ours", "theirs"] as const) : (["theirs", "ours"] as const);
      for (const which of order) took[which].push(await read(both[which]));
    }
    const rate = (ms: number): number => BIG_BYTES / ms / 1000;
    const pairs = took.ours.map((ms, round) => (took.theirs[round] ?? ms) / ms);
    const theirs = rate(median(took.theirs));
    report.add({
      part: "fanotify",
      name: "warm, nothing in memory, median of pairs",
      value: theirs * median(pairs),
      unit: "MB/s",
      reference: { name: "a plain file", value: theirs },
      goal: { kind: "at least", value: 0.97 },
      details: {
        "MB/s, fastest": rate(Math.min(...took.ours)),
        "plain, fastest": rate(Math.min(...took.theirs)),
      },
    });
  } finally {
    unmount(plain, { lazy: true });
    await mounted.stop();
  }
}

async function isMarked(pid: number): Promise<boolean> {
  const { stdout } = await exec("sh", [
    "-c",
    `grep -h "^fanotify ino:" /proc/${pid}/fdinfo/* || :`,
  ]);
  return stdout !== "";
}
