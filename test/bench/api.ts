// SPDX-License-Identifier: Apache-2.0
// The control socket under load, by hand, as root: `ps` 500 times a second with 200 mounts while a
// reader gets 100 MB/s, and what looking costs while nothing happens.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { Pool } from "undici";
import { unmount } from "../../src/kernel/mount.ts";
import { listMounts } from "../../src/kernel/mountinfo.ts";
import { buildDaemon } from "../host/support/site.ts";
import { BIG_BYTES, BIG_FILE, BenchSite, type Mounted, PROGRAM } from "./fanotify/site.ts";
import { UNSHAPED, startLink } from "./link/link.ts";
import type { Report } from "./report.ts";

const MOUNTS = 200;
const RATE = 500;
const LINK_BYTES_A_SECOND = 100e6;
const ALONE_SECONDS = 5;
const IDLE_SECONDS = 20;
const TICKS_A_SECOND = 100;
const exec = promisify(execFile);

/** The goals are for a machine that does nothing else. */
export async function benchApi(report: Report, home: string): Promise<void> {
  await buildDaemon();
  const site = await BenchSite.start(home);
  try {
    report.heading(`the control socket, ${MOUNTS} mounts`);
    const aloneRate = await fill(site);
    const link = await startLink(site.registry.host);
    await link.reshape({ ...UNSHAPED, bandwidth: LINK_BYTES_A_SECOND });
    const mounted = await site.mountFresh("", link.address);
    try {
      await mountMore(mounted, site);
      await measureAnswers(report, mounted, aloneRate);
      await measureIdle(report, mounted);
    } finally {
      await unmountMore(site);
      await mounted.stop();
      await link.stop();
    }
  } finally {
    await site.stop();
  }
}

/** Bytes a second of one reader in order, through the link, with as many mounts and no requests. */
async function fill(site: BenchSite): Promise<number> {
  const link = await startLink(site.registry.host);
  await link.reshape({ ...UNSHAPED, bandwidth: LINK_BYTES_A_SECOND });
  const mounted = await site.mountFresh("", link.address);
  try {
    await mountMore(mounted, site);
    return await readRate(mounted);
  } finally {
    await unmountMore(site);
    await mounted.stop();
    await link.stop();
  }
}

async function readRate(mounted: Mounted): Promise<number> {
  const startMs = performance.now();
  await exec("dd", [`if=${join(mounted.target, BIG_FILE)}`, "of=/dev/null", "bs=1M"]);
  return (BIG_BYTES / (performance.now() - startMs)) * 1000;
}

/** The image at further places, until there are as many mounts as there should be. */
async function mountMore(mounted: Mounted, site: BenchSite): Promise<void> {
  const pool = new Pool("http://erofsd", { socketPath: mounted.daemon.socketPath });
  const { mounts } = await mountsOf(pool);
  const [{ reference } = { reference: "" }] = mounts;
  for (let index = 1; index < MOUNTS; index += 1) {
    const mountPoint = join(site.scratch, "more", String(index));
    await mkdir(mountPoint, { recursive: true });
    const body = JSON.stringify({ reference, mountPoint });
    const headers = { "content-type": "application/json" };
    const answer = await pool.request({ method: "POST", path: "/v1/mounts", body, headers });
    const text = await answer.body.text();
    if (answer.statusCode !== 200) throw new Error(text);
  }
  const count = (await mountsOf(pool)).mounts.length;
  if (count !== MOUNTS) throw new Error(`${count} mounts, not ${MOUNTS}`);
  await pool.close();
}

async function mountsOf(pool: Pool): Promise<{ mounts: { reference: string }[] }> {
  const { body } = await pool.request({ method: "GET", path: "/v1/mounts" });
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the daemon's own answer
  return (await body.json()) as { mounts: { reference: string }[] };
}

async function unmountMore(site: BenchSite): Promise<void> {
  for (const { mountPoint } of await listMounts()) {
    if (mountPoint.startsWith(`${site.scratch}/more/`)) unmount(mountPoint, { lazy: true });
  }
}

/** Requests go out when they are due, whether or not those before are answered. */
async function measureAnswers(report: Report, mounted: Mounted, aloneRate: number): Promise<void> {
  const alone = await askSteadily(mounted, sleep(ALONE_SECONDS * 1000));
  addLatency(report, "ps, 500 a second", alone);
  const reading = readRate(mounted);
  const busy = await askSteadily(mounted, reading);
  addLatency(report, "ps, 500 a second, while a reader fills", busy);
  report.add({
    part: "api",
    name: "fill at 100 MB/s, with 500 ps a second",
    value: (await reading) / 1e6,
    unit: "MB/s",
    reference: { name: "without", value: aloneRate / 1e6 },
    goal: { kind: "at least", value: 0.95 },
  });
}

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

function addLatency(report: Report, name: string, times: readonly number[]): void {
  const at = (part: number): number => times[Math.floor((times.length - 1) * part)] ?? 0;
  report.add({
    part: "api",
    name: `${name}, p99`,
    value: at(0.99),
    unit: "ms",
    goal: { kind: "at most", value: 20 },
    details: { requests: times.length, p50: at(0.5), max: at(1) },
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
      details: { "the daemon alone, %": alone * 100 },
    });
  }
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
