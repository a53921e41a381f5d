// SPDX-License-Identifier: Apache-2.0
// The fanotify door when everything goes wrong at once, on this kernel: processes read every byte
// of mounted images while the daemon is killed, stopped and upgraded and its registry, network
// and disk fail. EROFSD_FAULT_SEED repeats a run, EROFSD_FAULT_KILLS and EROFSD_FAULT_MIB
// lengthen it.

import { mkdir, readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeAll, expect, test } from "vitest";
import { writeNoise } from "../../kernel/images/trees.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { type SeededRandom, seededRandom } from "../../support/seeded-random.ts";
import { Site, buildDaemon, end, must } from "../../host/support/site.ts";
import { type Outage, SHORT_FAULTS, longStall, pause, signal, suffer } from "../support/faults.ts";
import { type FailedRead, type Mounted, Readers } from "../support/readers.ts";

const KILLS = Number(process.env["EROFSD_FAULT_KILLS"] ?? 15);
const SEED = Number(process.env["EROFSD_FAULT_SEED"] ?? Math.floor(Math.random() * 1e9));
const TREE_MIB = Number(process.env["EROFSD_FAULT_MIB"] ?? 24);
const MIB = 1 << 20;
const READ_TIMEOUT_MS = 6000;
/** From the end of a cause until reads are right again. */
const RECOVERY_MS = 8000;
const KILL_GAP_MS = 2500;
const IMAGES = Math.max(3, Math.ceil((KILLS * 3 * MIB) / (TREE_MIB * MIB)));
/** So that there is something to fetch until the last kill. */
const BYTES_PER_SECOND = (IMAGES * TREE_MIB * MIB) / ((KILLS * (KILL_GAP_MS + 1000)) / 1000 + 5);
const LIMITS = `[registry]
attempts = 20
stall_timeout = "3s"
headers_timeout = "3s"
[limits]
read_timeout = "${READ_TIMEOUT_MS / 1000}s"
drain_timeout = "1s"`;
const timeout = 120_000 + KILLS * 6000;

let site: Site;

beforeAll(buildDaemon, 120_000);
afterEach(() => site.stop(), 120_000);

/** Images of one tree, each a stream of its own, all mounted. */
async function mountImages(): Promise<Mounted[]> {
  const tree = join(site.home, "tree");
  await mkdir(tree);
  const files = 12;
  for (let at = 0; at < files; at += 1) {
    const size = Math.floor((TREE_MIB * MIB) / files) + at * 1000;
    await writeNoise(join(tree, `file-${at}`), size, `fault ${at}`);
  }
  const mounted: Mounted[] = [];
  for (let at = 0; at < IMAGES; at += 1) {
    const image = join(site.home, "image.erofs");
    const id = String(at).padStart(12, "0");
    await mkfsErofs(image, tree, [`-U00000000-0000-4000-8000-${id}`]);
    mounted.push({ tree, mounted: await site.mount(await site.pushRaw(image, `v${at}`)) });
  }
  return mounted;
}

async function killAgainAndAgain(random: SeededRandom, readers: Readers): Promise<number> {
  let kills = 0;
  while (kills < KILLS && !readers.haveEnded) {
    await pause(random.between(KILL_GAP_MS / 10, 2 * KILL_GAP_MS));
    const status = await site.daemon.status().catch(() => undefined);
    if (status !== undefined && signal(status.pid, "SIGKILL")) kills += 1;
  }
  return kills;
}

async function troubleAgainAndAgain(
  random: SeededRandom,
  isOver: () => boolean,
): Promise<Outage[]> {
  const outages: Outage[] = [];
  while (!isOver()) {
    const faults = [...SHORT_FAULTS, longStall(READ_TIMEOUT_MS + 2000)];
    random.shuffle(faults);
    for (const fault of faults) {
      if (isOver()) break;
      outages.push(await suffer(site, fault, random));
      await pause(random.between(0, 1000));
    }
  }
  return outages;
}

/** Reads that failed though nothing lasted so long that they might. */
function unexcused(failed: readonly FailedRead[], outages: readonly Outage[]): FailedRead[] {
  const causes = outages.filter(
    ({ excuses, startMs, endMs }) => excuses || endMs - startMs >= READ_TIMEOUT_MS,
  );
  return failed.filter(
    ({ errno, endMs }) =>
      (errno !== "EIO" && errno !== "ENOSPC") ||
      !causes.some((cause) => cause.startMs <= endMs && endMs <= cause.endMs + RECOVERY_MS),
  );
}

/** What led to it. */
function tellAll(outages: readonly Outage[]): void {
  const lines = site.daemon.log.slice(-2000).map((line) => JSON.stringify(line));
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

test(
  `${KILLS} kills, and whatever else may fail: readers wait or are told, and no byte is wrong`,
  async () => {
    process.stdout.write(`EROFSD_FAULT_SEED=${SEED}\n`);
    const complaints = await kernelComplaints();
    const cacheBytes = (IMAGES * TREE_MIB + 256) * 1.25 * MIB;
    site = await Site.start({
      command: "supervise",
      logLevel: "info",
      limits: LIMITS,
      cache: { type: "ext4", bytes: Math.ceil(cacheBytes / MIB) * MIB },
    });
    const of = await mountImages();
    site.way.fair({ bytesPerSecond: BYTES_PER_SECOND });
    const keeper = { fds: await fdsOf(site.daemon.pid), kib: await kibOf(site.daemon.pid) };
    const limitMs = 3 * READ_TIMEOUT_MS + RECOVERY_MS;
    const readers = new Readers({ count: 3, seed: SEED, limitMs, of });
    let isOver = false;
    const trouble = troubleAgainAndAgain(seededRandom(SEED + 1), () => isOver);
    const kills = await killAgainAndAgain(seededRandom(SEED), readers);
    isOver = true;
    const outages = await trouble;
    await pause(RECOVERY_MS);
    const { failed, wrongs, ...sums } = await readers.stop();
    const said = { kills, faults: outages.length, failed: failed.length, ...sums };
    process.stdout.write(`${JSON.stringify(said)}\n`);
    const early = unexcused(failed, outages);
    if (wrongs.length + early.length > 0) tellAll(outages);
    expect({ wrongs, unexcused: early, kills }).toEqual({
      wrongs: [],
      unexcused: [],
      kills: KILLS,
    });
    site.way.fair({});
    for (const { tree, mounted } of of) {
      expect(await end("diff", ["-r", tree, mounted])).toMatchObject({ code: 0, stdout: "" });
    }
    expect(await fdsOf(site.daemon.pid)).toBeLessThanOrEqual(keeper.fds + 1);
    expect(await kibOf(site.daemon.pid)).toBeLessThan(keeper.kib + 1024);
    await site.umountAll();
    await site.untilIdle();
    expect(await site.daemon.stop()).toBe(0);
    expect(await kernelComplaints()).toBe(complaints);
  },
  timeout,
);
