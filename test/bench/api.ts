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
import type { Report } from "./report.ts";

const MOUNTS = 200;
const RATE = 500;
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
  readonly times: readonly number[];
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
  const pool = new Pool("http://erofsd", { socketPath: mounted.daemon.socketPath });
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
  const { pid } = mounted.daemon;
  const before = await scheduled(pid);
  const times = await askSteadily(mounted, sleep(ALONE_SECONDS * 1000));
  const after = await scheduled(pid);
  const share = (name: "ran" | "waited"): number =>
    ((after[name] - before[name]) / 1e9 / ALONE_SECONDS) * 100;
  addLatency(report, "ps, 500 a second", times, {
    "the daemon's loop ran, %": share("ran"),
    "and waited for a processor, %": share("waited"),
  });
}

async function measureBusy(mounted: Mounted): Promise<Omit<Round, "aloneRate">> {
  const reading = readRate(mounted);
  const times = await askSteadily(mounted, reading);
  return { busyRate: await reading, times };
}

function addBusy(report: Report, rounds: readonly Round[]): void {
  const times = rounds.flatMap((round) => round.times).sort((a, b) => a - b);
  addLatency(report, "ps, 500 a second, while a reader fills", times);
  report.add({
    part: "api",
    name: "fill at 100 MB/s, with 500 ps a second",
    value: median(rounds.map(({ busyRate }) => busyRate)) / 1e6,
    unit: "MB/s",
    reference: { name: "without", value: median(rounds.map(({ aloneRate }) => aloneRate)) / 1e6 },
    goal: { kind: "at least", value: 0.95 },
  });
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Requests go out when they are due, whether or not those before are answered; their times, sorted. */
async function askSteadily(mounted: Mounted, until: Promise<unknown>): Promise<number[]> {
  const pool = new Pool("http://erofsd", {
    socketPath: mounted.daemon.socketPath,
    connections: 16,
  });
  const times: number[] = [];
  const pending = new Set<Promise<void>>();
  const progress = { isOver: false };
  const over = until.finally(() => {
    progress.isOver = true;
  });
  const startMs = performance.now();
  for (let sent = 0; !progress.isOver; ) {
    const dueCount = ((performance.now() - startMs) * RATE) / 1000;
    for (; sent < dueCount; sent += 1) {
      const dueMs = startMs + (sent * 1000) / RATE;
      const asked = askOnce(pool).then(() => {
        times.push(performance.now() - dueMs);
        pending.delete(asked);
      });
      pending.add(asked);
    }
    await sleep(1);
  }
  await Promise.all([over, ...pending]);
  await pool.close();
  return times.sort((a, b) => a - b);
}

async function askOnce(pool: Pool): Promise<void> {
  const { statusCode, body } = await pool.request({ method: "GET", path: "/v1/mounts" });
  await body.dump();
  if (statusCode !== 200) throw new Error(`GET /v1/mounts: ${statusCode}`);
}

function addLatency(
  report: Report,
  name: string,
  times: readonly number[],
  more: Readonly<Record<string, number>> = {},
): void {
  const at = (part: number): number => times[Math.floor((times.length - 1) * part)] ?? 0;
  report.add({
    part: "api",
    name: `${name}, p99`,
    value: at(0.99),
    unit: "ms",
    goal: { kind: "at most", value: 20 },
    details: { requests: times.length, p50: at(0.5), max: at(1), load: loadavg()[0] ?? 0, ...more },
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

/** Of a process' first thread, in nanoseconds (/proc/PID/schedstat). */
async function scheduled(pid: number): Promise<{ ran: number; waited: number }> {
  const [ran, waited] = (await readFile(`/proc/${pid}/schedstat`, "utf8")).split(" ");
  return { ran: Number(ran), waited: Number(waited) };
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
