// SPDX-License-Identifier: Apache-2.0
// What goes wrong around a daemon, one thing at a time, and for how long.

import type { SeededRandom } from "../../support/seeded-random.ts";
import type { Way } from "../../support/way.ts";
import { fillDisk } from "../../host/support/full-disk.ts";
import { type Site, end, program } from "../../host/support/site.ts";

/** While it lasts, milliseconds since 1970. */
export interface Outage {
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
}

export interface Fault {
  readonly name: string;
  /** `digested`: the way to images whose bytes have digests; of others nobody could tell. */
  readonly run: (site: Site, random: SeededRandom, digested: Way) => Promise<void>;
}

export const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

const SHORT_MS = 2000;

function weather(name: string, of: Parameters<Site["way"]["set"]>[0], ms = SHORT_MS): Fault {
  return {
    name,
    async run({ way }) {
      way.set(of);
      await pause(ms);
      way.clear();
    },
  };
}

/** Each shorter than a read's deadline. */
export const SHORT_FAULTS: readonly Fault[] = [
  weather("the network stalls", { stalls: true }),
  weather("the network is slow", { bytesPerSecond: 100_000 }),
  weather("answers are cut", { truncatesAt: 150_000 }),
  weather("connections are refused", { refuses: true }),
  {
    name: "bytes are wrong on their way",
    async run(_, __, digested) {
      digested.set({ corruptsEach: 200_000 });
      await pause(SHORT_MS);
      digested.clear();
    },
  },
  {
    name: "the registry is killed and started again",
    async run(site) {
      await site.stopRegistry("SIGKILL");
      await pause(SHORT_MS / 2);
      await site.startRegistry();
    },
  },
  {
    name: "the daemon is stopped and continued",
    async run(site, random) {
      // Between two daemons there is none to stop.
      const status = await site.daemon.status().catch(() => undefined);
      if (status === undefined || !signal(status.pid, "SIGSTOP")) return;
      await pause(random.between(200, SHORT_MS));
      signal(status.pid, "SIGCONT");
    },
  },
  {
    name: "the daemon is upgraded",
    async run(site) {
      // It fails when the daemon is killed meanwhile.
      await end(process.execPath, [program, "upgrade", "--socket", site.daemon.socketPath]);
    },
  },
  {
    name: "the cache disk is full",
    async run(site) {
      const free = await fillDisk(site.cacheDir);
      await pause(SHORT_MS);
      await free();
    },
  },
];

/** Longer than a read's deadline: reads may fail while it lasts. */
export const longStall = (ms: number): Fault => ({
  name: "the network stalls for longer than a read may wait",
  async run({ way }, _, digested) {
    for (const each of [way, digested]) each.set({ stalls: true });
    await pause(ms);
    for (const each of [way, digested]) each.clear();
  },
});

export async function suffer(fault: Fault, given: Parameters<Fault["run"]>): Promise<Outage> {
  const startMs = Date.now();
  await fault.run(...given);
  return { name: fault.name, startMs, endMs: Date.now() };
}

/** Of a process that may be gone. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}
