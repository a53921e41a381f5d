// SPDX-License-Identifier: Apache-2.0
// The control socket under load, by hand, as root: `ps` 500 times a second with 200 mounts while a
// reader gets 100 MB/s, and what looking costs while nothing happens.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdir, readFile } from "node:fs/promises";
import { loadavg } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Pool } from "undici";
import { bindMount, unmount } from "../../src/kernel/mount.ts";
import { mountsAnswer } from "../../src/control/mount-schema.ts";
import { listMounts } from "../../src/kernel/mountinfo.ts";
import { BIG_BYTES, BIG_FILE, BenchSite, type Mounted, PROGRAM } from "./fanotify/site.ts";
import { UNSHAPED, startLink } from "./link/link.ts";
import { type Asked, askSteadily } from "./asker.ts";
import type { Report } from "./report.ts";

const MOUNTS = 200;
const LINK_BYTES_A_SECOND = 100e6;
const ROUNDS = 3;
const ALONE_SECONDS = 5;
const IDLE_SECONDS = 20;
const TICKS_A_SECOND = 100;
const exec = promisify(execFile);

/** The goals are for a machine that does nothing else. */
export async function benchApi(report: Report, home: string): Promise<void> {
  const site = await BenchSite.start(home);
  const link = await startLink(site.registry.host);
  await link.reshape({ ...UNSHAPED, bandwidth: LINK_BYTES_A_SECOND });
  const withMounts = async <T>(run: (mounted: Mounted) => Promise<T>): Promise<T> => {
    const mounted = await site.mountFresh("", link.address);
    try {
      await mountMore(mounted, site);
      return await run(mounted);
    } finally {
      await unmountMore(site);
      await mounted.stop();
    }
  };
  try {
    report.heading(`the control socket, ${MOUNTS} mounts`);
    const rounds: Round[] = [];
    // One after the other in turn: what else the machine does hits both.
    for (let round = 0; round < ROUNDS; round += 1) {
      const aloneRate = await withMounts(readRate);
      rounds.push({ aloneRate, ...(await withMounts(measureBusy)) });
    }
    await withMounts((mounted) => measureAlone(report, mounted));
    addBusy(report, rounds);
    await withMounts((mounted) => measureIdle(report, mounted));
  } finally {
    await link.stop();
    await site.stop();
  }
}

interface Round {
  /** Bytes a second of one reader in order, with as many mounts and no requests. */
  readonly aloneRate: number;
  readonly busyRate: number;
  readonly asked: Asked;
  /** Of the daemon's loop, of the time that reading took. */
  readonly loop: Scheduled;
}

async function readRate(mounted: Mounted): Promise<number> {
  const startMs = performance.now();
  await exec("dd", [`if=${join(mounted.target, BIG_FILE)}`, "of=/dev/null", "bs=1M"]);
  return (BIG_BYTES / (performance.now() - startMs)) * 1000;
}

/** The image at further places, until there are as many mounts as there should be. */
async function mountMore(mounted: Mounted, site: BenchSite): Promise<void> {
  for (let index = 1; index < MOUNTS; index += 1) {
    const mountPoint = join(site.scratch, "more", String(index));
    await mkdir(mountPoint, { recursive: true });
    bindMount(mounted.target, mountPoint);
  }
  const pool = new Pool("http://erofsd", {
    socketPath: mounted.daemon.socketPath,
  });
  const { body } = await pool.request({ method: "GET", path: "/v1/mounts" });
  const count = mountsAnswer.parse(await body.json()).mounts.length;
  if (count !== MOUNTS) throw new Error(`${count} mounts, not ${MOUNTS}`);
  await pool.close();
}

async function unmountMore(site: BenchSite): Promise<void> {
  for (const { mountPoint } of await listMounts()) {
    if (mountPoint.startsWith(`${site.scratch}/more/`)) unmount(mountPoint, { lazy: true });
  }
}

async function measureAlone(report: Report, mounted: Mounted): Promise<void> {
  const { pid, socketPath } = mounted.daemon;
  const { result: loop, ...asked } = await askSteadily(socketPath, () =>
    scheduledIn(pid, () => sleep(ALONE_SECONDS * 1000)),
  );
  addLatency(report, "ps, 500 a second", [{ asked, loop }]);
}

async function measureBusy(mounted: Mounted): Promise<Omit<Round, "aloneRate">> {
  const { pid, socketPath } = mounted.daemon;
  const { result, ...asked } = await askSteadily(socketPath, async () => {
    let busyRate = 0;
    const loop = await scheduledIn(pid, async () => {
      busyRate = await readRate(mounted);
    });
    return { busyRate, loop };
  });
  return { ...result, asked };
}

function addBusy(report: Report, rounds: readonly Round[]): void {
  addLatency(report, "ps, 500 a second, while a reader fills", rounds);
  report.add({
    part: "api",
    name: "fill at 100 MB/s, with 500 ps a second",
    value: median(rounds.map(({ busyRate }) => busyRate)) / 1e6,
    unit: "MB/s",
    reference: {
      name: "without",
      value: median(rounds.map(({ aloneRate }) => aloneRate)) / 1e6,
    },
    goal: { kind: "at least", value: 0.95 },
  });
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** How long answers took; and whose fault it may be that some took long. */
function addLatency(
  report: Report,
  name: string,
  rounds: readonly Pick<Round, "asked" | "loop">[],
): void {
  const all = (list: "times" | "lateTimes"): number[] =>
    rounds.flatMap(({ asked }) => asked[list]).sort((a, b) => a - b);
  const [times, lateTimes] = [all("times"), all("lateTimes")];
  const at = (part: number, of = times): number => of[Math.floor((of.length - 1) * part)] ?? 0;
  report.add({
    part: "api",
    name: `${name}, p99`,
    value: at(0.99),
    unit: "ms",
    goal: { kind: "at most", value: 20 },
    details: {
      requests: times.length,
      p50: at(0.5),
      max: at(1),
      "asked late, p99": at(0.99, lateTimes),
      "the asker ran, %": 100 * median(rounds.map(({ asked }) => asked.cpuShare)),
      "the daemon's loop ran, %": 100 * median(rounds.map(({ loop }) => loop.ran)),
      "and waited for a processor, %": 100 * median(rounds.map(({ loop }) => loop.waited)),
      load: loadavg()[0] ?? 0,
    },
  });
}

async function measureIdle(report: Report, mounted: Mounted): Promise<void> {
  const { pid, socketPath } = mounted.daemon;
  const alone = await cpuShare([pid]);
  const top = spawn(process.execPath, [PROGRAM, "top", "--json", "--socket", socketPath], {
    stdio: "ignore",
  });
  await sleep(2000);
  const withTop = await cpuShare([pid, pidOf(top)]);
  top.kill();
  const pool = new Pool("http://erofsd", { socketPath });
  const timer = setInterval(() => {
    pool
      .request({ method: "GET", path: "/v1/metrics" })
      .then(({ body }) => body.dump())
      .catch((error: unknown) => console.error(error));
  }, 5000);
  const withMetrics = await cpuShare([pid]);
  clearInterval(timer);
  await pool.close();
  const parts = [
    ["top, each second, itself and the daemon", withTop],
    ["metrics, each 5 s", withMetrics],
  ] as const;
  for (const [name, share] of parts) {
    report.add({
      part: "api",
      name: `CPU while idle: ${name}`,
      value: Math.max(0, share - alone) * 100,
      unit: "%",
      goal: { kind: "at most", value: 1 },
      details: { "the daemon alone, %": alone * 100, load: loadavg()[0] ?? 0 },
    });
  }
}

/** Parts of the time that passed. */
interface Scheduled {
  readonly ran: number;
  readonly waited: number;
}

/** Of a process' first thread, for as long as `run` takes. */
async function scheduledIn(pid: number, run: () => Promise<unknown>): Promise<Scheduled> {
  // Nanoseconds (proc_pid_schedstat).
  const look = async (): Promise<number[]> =>
    (await readFile(`/proc/${pid}/schedstat`, "utf8")).split(" ").map(Number);
  const startMs = performance.now();
  const [ran = 0, waited = 0] = await look();
  await run();
  const [ranAfter = 0, waitedAfter = 0] = await look();
  const passed = (performance.now() - startMs) * 1e6;
  return {
    ran: (ranAfter - ran) / passed,
    waited: (waitedAfter - waited) / passed,
  };
}

function pidOf({ pid }: ChildProcess): number {
  if (pid === undefined) throw new Error("top did not start");
  return pid;
}

/** Of one processor, over some seconds. */
async function cpuShare(pids: readonly number[]): Promise<number> {
  const before = await cpuTicks(pids);
  await sleep(IDLE_SECONDS * 1000);
  return ((await cpuTicks(pids)) - before) / TICKS_A_SECOND / IDLE_SECONDS;
}

async function cpuTicks(pids: readonly number[]): Promise<number> {
  let sum = 0;
  for (const pid of pids) {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    sum += Number(fields[11]) + Number(fields[12]);
  }
  return sum;
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
