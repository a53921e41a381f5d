// SPDX-License-Identifier: Apache-2.0
// The fanotify door when everything goes wrong at once, on this kernel: processes read every byte
// of mounted images while the daemon is killed, stopped and upgraded and its registry, network
// and disk fail. EROFSD_FAULT_SEED makes the same choices again, EROFSD_FAULT_KILLS,
// EROFSD_FAULT_MIB and EROFSD_FAULT_CALM_S lengthen it (scripts/soak faults).

import { readFile, readdir } from "node:fs/promises";
import { afterEach, expect, test } from "vitest";
import { Site, end, must } from "../../host/support/site.ts";
import { type SeededRandom, seededRandom } from "../../support/seeded-random.ts";
import { Way } from "../../support/way.ts";
import { type Outage, SHORT_FAULTS, longStall, pause, signal, suffer } from "../support/faults.ts";
import { mountDigested, mountTrees } from "../support/mounted-images.ts";
import {
  type FailedRead,
  type Findings,
  type Mounted,
  Readers,
  type SlowRead,
} from "../support/readers.ts";

const KILLS = Number(process.env["EROFSD_FAULT_KILLS"] ?? 15);
const SEED = Number(process.env["EROFSD_FAULT_SEED"] ?? Math.floor(Math.random() * 1e9));
const TREE_MIB = Number(process.env["EROFSD_FAULT_MIB"] ?? 24);
const IS_LONG = KILLS > 20;
const MIB = 1 << 20;
const READ_TIMEOUT_MS = 6000;
/** From the end of a cause until reads are right again; kills come meanwhile. */
const RECOVERY_MS = 10_000;
/** Of a read while one daemon serves. */
const LIMIT_MS = READ_TIMEOUT_MS + RECOVERY_MS;
/** Who has waited for so long when a daemon takes over is refused. */
const REFUSED_MS = 2 * READ_TIMEOUT_MS;
const KILL_GAP_MS = IS_LONG ? 5000 : 2200;
/** Without kills, at the end, for what grows. */
const CALM_MS = Number(process.env["EROFSD_FAULT_CALM_S"] ?? (IS_LONG ? 900 : 6)) * 1000;
/** Between two causes there is time to get on; else they would be one. */
const PAUSE_MS = { min: 1500, max: 3000 };
const RUN_MS = KILLS * (KILL_GAP_MS + 1000) + CALM_MS;
/** There is to be something to fetch, but in the last of a long calm, at a pace that readers can live with. */
const BYTES_PER_SECOND = 3 * MIB;
const COLD_MS = Math.min(RUN_MS, RUN_MS - CALM_MS + 300_000);
const IMAGES = Math.ceil((BYTES_PER_SECOND * COLD_MS) / 1000 / (TREE_MIB * MIB));
const GROWTH_KIB_MAX = 48 * 1024;
const LIMITS = `[registry]
stall_timeout = "3s"
headers_timeout = "3s"
[limits]
read_timeout = "${READ_TIMEOUT_MS / 1000}s"
drain_timeout = "1s"`;

let site: Site;
let digested: Way | undefined;

afterEach(async () => {
  await digested?.stop();
  await site.stop();
}, 120_000);

/** When, ms since 1970. */
async function killAgainAndAgain(random: SeededRandom, readers: Readers): Promise<number[]> {
  const kills: number[] = [];
  while (kills.length < KILLS && !readers.haveEnded) {
    await pause(random.between(KILL_GAP_MS / 10, 2 * KILL_GAP_MS));
    const status = await site.daemon.status().catch(() => undefined);
    if (status !== undefined && signal(status.pid, "SIGKILL")) kills.push(Date.now());
  }
  return kills;
}

async function troubleAgainAndAgain(
  given: Parameters<typeof suffer>[1],
  isOver: () => boolean,
): Promise<Outage[]> {
  const [, random] = given;
  const outages: Outage[] = [];
  while (!isOver()) {
    const faults = [...SHORT_FAULTS, longStall(READ_TIMEOUT_MS + 2000)];
    random.shuffle(faults);
    for (const fault of faults) {
      if (isOver()) break;
      outages.push(await suffer(fault, given));
      await pause(random.between(PAUSE_MS.min, PAUSE_MS.max));
    }
  }
  return outages;
}

/** Reads that failed though nothing lasted for as long as they may wait, nor daemons died over them. */
function unexcused(
  failed: readonly FailedRead[],
  { outages, kills }: { outages: readonly Outage[]; kills: readonly number[] },
): FailedRead[] {
  const causes = outages.filter(({ startMs, endMs }) => endMs - startMs >= READ_TIMEOUT_MS);
  const isRefused = ({ startMs, endMs }: FailedRead): boolean =>
    endMs - startMs >= REFUSED_MS && kills.some((atMs) => startMs < atMs && atMs < endMs);
  return failed.filter(
    (read) =>
      read.errno !== "EIO" ||
      (!isRefused(read) &&
        !causes.some(
          (cause) => cause.startMs <= read.endMs && read.endMs <= cause.endMs + RECOVERY_MS,
        )),
  );
}

/** Reads that took too long of one daemon: a killed one leaves the next as much time again. */
function late(slow: readonly SlowRead[], kills: readonly number[]): SlowRead[] {
  return slow.filter(({ startMs, endMs, requests }) => {
    const ends = kills.filter((atMs) => startMs < atMs && atMs < endMs);
    const times = [startMs, ...ends, endMs];
    return times.some((atMs, at) => atMs - (times[at - 1] ?? atMs) > requests * LIMIT_MS);
  });
}

/** What led to it. */
function tellAll(outages: readonly Outage[]): void {
  const lines = site.daemon.log.slice(-3000).map((line) => JSON.stringify(line));
  const causes = outages.map((outage) => JSON.stringify(outage));
  process.stdout.write(`${[...causes, ...lines].join("\n")}\n`);
}

const fdsOf = async (pid: number): Promise<number> => (await readdir(`/proc/${pid}/fd`)).length;

async function kibOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s*(\d+)/m.exec(text)?.[1]);
}

async function kernelComplaints(): Promise<number> {
  const text = await must("dmesg", []);
  return [...text.matchAll(/WARNING: |BUG: |Oops|INFO: task .* blocked/g)].length;
}

/** Command lines of processes that have to do with this site. */
async function processes(): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir("/proc")) {
    const words = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    const isOurs = words.includes(site.home) || words.includes(site.daemon.configPath);
    if (isOurs && !words.startsWith("docker-registry")) found.push(words.replaceAll("\0", " "));
  }
  return found;
}

/** Of the daemon that serves now. */
async function sizeOfDaemon(): Promise<{ pid: number; fds: number; kib: number }> {
  const { pid } = await site.daemon.status();
  return { pid, fds: await fdsOf(pid), kib: await kibOf(pid) };
}

/** Faults without kills and upgrades, into `outages`; what the daemon has grown by. */
async function calm(
  given: Parameters<typeof suffer>[1],
  outages: Outage[],
): Promise<{ fds: number; kib: number }> {
  const faults = SHORT_FAULTS.filter(({ name }) => !name.includes("upgraded"));
  const untilMs = Date.now() + CALM_MS;
  // Its pools and the compiled code are there after a while.
  await pause(CALM_MS / 4);
  const before = await sizeOfDaemon();
  while (Date.now() < untilMs) {
    outages.push(await suffer(given[1].pick(faults) ?? longStall(0), given));
    await pause(PAUSE_MS.max);
  }
  const after = await sizeOfDaemon();
  expect(after.pid).toBe(before.pid);
  return { fds: after.fds - before.fds, kib: after.kib - before.kib };
}

/** Kills and all the rest, for as long as that takes, under `readers`. */
async function goWrong(readers: Readers, way: Way) {
  let isOver = false;
  const trouble = troubleAgainAndAgain([site, seededRandom(SEED + 1), way], () => isOver);
  const kills = await killAgainAndAgain(seededRandom(SEED), readers);
  isOver = true;
  const outages = await trouble;
  await pause(PAUSE_MS.max);
  const given = [site, seededRandom(SEED + 2), way] as const;
  const grown = readers.haveEnded ? undefined : await calm([...given], outages);
  return { kills, outages, grown, findings: await readers.stop() };
}

function tell(of: {
  kills: readonly number[];
  outages: readonly Outage[];
  grown: unknown;
  findings: Findings;
}) {
  const { failed, wrongs, slow, ...sums } = of.findings;
  const times: Record<string, number> = {};
  for (const { name } of of.outages) times[name] = (times[name] ?? 0) + 1;
  const counts = { failed: failed.length, slow: slow.length, wrongs: wrongs.length };
  const said = { kills: of.kills.length, ...counts, ...sums };
  process.stdout.write(`${JSON.stringify({ ...said, grown: of.grown, faults: times })}\n`);
}

async function mountAll(way: Way): Promise<Mounted[]> {
  const trees = await mountTrees(site, { images: IMAGES, mib: TREE_MIB });
  return [...trees, await mountDigested(site, way, TREE_MIB)];
}

test(
  `${KILLS} kills, and whatever else may fail: readers wait or are told, and no byte is wrong`,
  async () => {
    process.stdout.write(`EROFSD_FAULT_SEED=${SEED}\n`);
    const complaints = await kernelComplaints();
    const cacheMib = Math.ceil(((IMAGES + 1) * TREE_MIB + 256) * 1.25);
    site = await Site.start({
      command: "supervise",
      logLevel: "info",
      limits: LIMITS,
      cache: { type: "ext4", bytes: cacheMib * MIB, isInMemory: true },
    });
    digested = await Way.start(Number(site.registryHost.split(":")[1]));
    const of = await mountAll(digested);
    site.way.fair({ bytesPerSecond: BYTES_PER_SECOND });
    digested.fair({ bytesPerSecond: BYTES_PER_SECOND });
    const keeper = { fds: await fdsOf(site.daemon.pid), kib: await kibOf(site.daemon.pid) };
    const limitMs = REFUSED_MS + LIMIT_MS;
    const readers = new Readers({ count: 3, seed: SEED, slowMs: LIMIT_MS, limitMs, of });
    const ended = await goWrong(readers, digested);
    tell(ended);
    const { kills, outages, grown, findings } = ended;
    const { wrongs } = findings;
    const early = unexcused(findings.failed, { outages, kills });
    const slow = late(findings.slow, kills);
    if (wrongs.length + early.length + slow.length > 0) tellAll(outages);
    expect({ wrongs, early, slow }).toEqual({ wrongs: [], early: [], slow: [] });
    expect(kills).toHaveLength(KILLS);
    expect(grown?.fds).toBeLessThan(16);
    expect(grown?.kib).toBeLessThan(GROWTH_KIB_MAX);
    for (const way of [site.way, digested]) way.fair({});
    for (const { tree, mounted } of of) {
      expect(await end("diff", ["-r", tree, mounted])).toMatchObject({ code: 0, stdout: "" });
    }
    expect(await fdsOf(site.daemon.pid)).toBeLessThanOrEqual(keeper.fds + 1);
    expect(await kibOf(site.daemon.pid)).toBeLessThan(keeper.kib + 1024);
    await site.umountAll();
    await site.untilIdle();
    expect(await site.daemon.stop()).toBe(0);
    expect(await processes()).toEqual([]);
    expect(await kernelComplaints()).toBe(complaints);
  },
  300_000 + 3 * RUN_MS,
);
