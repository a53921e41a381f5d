// SPDX-License-Identifier: Apache-2.0
// Resident memory of a process that has been left alone for a moment.

import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { KIB } from "../../src/units.ts";

const SETTLE_MS = 2000;

export async function idleRssMib(pid: number): Promise<number> {
  await sleep(SETTLE_MS);
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const [, kib = "0"] = /^VmRSS:\s+(\d+) kB$/m.exec(status) ?? [];
  return Number(kib) / KIB;
}
