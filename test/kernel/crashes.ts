// SPDX-License-Identifier: Apache-2.0
// Daemons of the cachefiles door that are killed again and again under readers: mounts go on with
// the next daemon, no byte is wrong, and what is cached survives.

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { seededRandom } from "../support/seeded-random.ts";
import { type Mounted, Readers } from "../fault/support/readers.ts";
import { Way } from "../support/way.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { dropCaches, expectSameTree } from "./support/run.ts";
import { SLOWNESS, TIER, beyondSmoke, fullTest } from "./support/settings.ts";

const isFull = TIER === "full";
const KILLS = Number(process.env["EROFSD_FAULT_KILLS"] ?? (isFull ? 15 : 3));
const SEED = Number(process.env["EROFSD_FAULT_SEED"] ?? Math.floor(Math.random() * 1e9));
const IMAGES = isFull ? ["large", "large-device"] : ["plain", "device-named"];
const GAP_MS = isFull ? 1000 : 2000;
const READ_TIMEOUT_S = isFull ? 15 : 120;
/** The link is as fast as makes readers wait for it until the last kill. */
const BYTES_PER_SECOND = isFull ? (3 << 20) * (15 / KILLS) : 1 << 18;
const CONFIG = `[limits]
open_timeout = "2m"
read_timeout = "${READ_TIMEOUT_S}s"
[registry]
connect_timeout = "${READ_TIMEOUT_S}s"
headers_timeout = "${READ_TIMEOUT_S}s"
stall_timeout = "${READ_TIMEOUT_S}s"
`;
const timeout = (120_000 + KILLS * 10_000) * SLOWNESS;

beyondSmoke("a daemon that is killed again and again", () => {
  let registry: RunningRegistry;
  let way: Way;
  before(async () => {
    registry = await startRegistry();
    way = await Way.start(Number(registry.host.split(":")[1]));
  });
  after(async () => {
    await way.stop();
    await registry.stop();
  });

  for (const command of isFull ? (["serve", "supervise"] as const) : (["serve"] as const)) {
    test(`${command}, ${KILLS} times: readers wait, no byte is wrong, what is cached survives`, {
      timeout,
    }, async () => {
      const rig = await Rig.start(CONFIG, command);
      try {
        await killedUnderReaders(rig, command);
      } finally {
        await rig.stop();
      }
      deepStrictEqual(await keepersOf(rig.cacheDir), []);
    });
  }

  fullTest(
    "a supervisor that is killed: its daemon finds another keeper, and the next daemon all",
    { timeout },
    async () => {
      const rig = await Rig.start(CONFIG, "supervise");
      try {
        const image = catalogue.get(IMAGES[0] ?? "");
        const mounted = await rig.mountImage(way.host, image);
        const { pid } = await rig.daemon.status();
        await rig.daemon.stop("SIGKILL");
        for (let tries = 0; (await keepersOf(rig.cacheDir)).length === 0; tries += 1) {
          ok(tries < 200 * SLOWNESS, "there is no other keeper");
          await sleep(50);
        }
        // Not only started: it has what the daemon gave it.
        await rig.untilLogged(({ msg }) => msg === "another keeper is there", 0);
        process.kill(pid, "SIGKILL");
        await rig.restart();
        await expectSameTree(catalogue.treeOf(image), mounted);
        await rig.umountAll();
      } finally {
        await rig.stop();
      }
      deepStrictEqual(await keepersOf(rig.cacheDir), []);
    },
  );

  async function killedUnderReaders(rig: Rig, command: "serve" | "supervise"): Promise<void> {
    process.stdout.write(`# EROFSD_FAULT_SEED=${SEED}\n`);
    way.fair({ bytesPerSecond: BYTES_PER_SECOND });
    const random = seededRandom(SEED);
    const of: Mounted[] = [];
    for (const name of IMAGES) {
      const image = catalogue.get(name);
      const mounted = await rig.mountImage(way.host, image);
      of.push({ tree: catalogue.treeOf(image), mounted });
    }
    // A read may wait for more than one answer, and for other work of the machine.
    const limitMs = 4 * READ_TIMEOUT_S * 1000;
    const readers = new Readers({ count: 3, seed: SEED, limitMs, of });
    let kills = 0;
    const said: string[] = [];
    for (; kills < KILLS && !readers.haveEnded; kills += 1) {
      // Some are killed before they have answered anybody.
      if (random.chance(0.7)) await untilWritten(rig, readers);
      await sleep(random.between(0, GAP_MS));
      said.push(rig.logText());
      await kill(rig, command);
    }
    way.fair({});
    const { wrongs, failed, reads, slowestMs } = await readers.stop();
    said.push(rig.logText());
    process.stdout.write(`# ${kills} kills, ${reads} reads, the slowest ${slowestMs} ms\n`);
    deepStrictEqual(
      { wrongs, failed, kills },
      { wrongs: [], failed: [], kills: KILLS },
      [...wrongs, `${failed.length} reads failed, ${kills} kills`, ...said].join("\n"),
    );
    for (const { tree, mounted } of of) await expectSameTree(tree, mounted);
    await rig.untilQuiet();
    await kill(rig, command);
    await dropCaches();
    const cost = await rig.costOf(async () => {
      for (const { tree, mounted } of of) await expectSameTree(tree, mounted);
    });
    strictEqual(cost.fetchedBytes, 0, "bytes fetched of what was cached");
    strictEqual(cost.reads, 0, "READ messages for what was cached");
    await rig.umountAll();
  }
});

async function kill(rig: Rig, command: "serve" | "supervise"): Promise<void> {
  if (command === "serve") {
    await rig.daemon.stop("SIGKILL");
    await rig.restart();
    return;
  }
  const { pid } = await rig.daemon.status();
  process.kill(pid, "SIGKILL");
  const endMs = performance.now() + 20_000 * SLOWNESS;
  for (;;) {
    const status = await rig.daemon.status().catch(() => undefined);
    if (status?.ready === true && status.pid !== pid) return;
    ok(performance.now() < endMs, `no other daemon serves\n${rig.logText()}`);
    await sleep(20);
  }
}

/** A daemon has fetched something for readers. */
async function untilWritten(rig: Rig, readers: Readers): Promise<void> {
  await rig.untilStatus(async (status) => {
    if (readers.haveEnded || status.cache.writtenBytes > 0) return true;
    await sleep(50);
    return false;
  });
}

async function keepersOf(cacheDir: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const words = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (words.includes("erofsd-keeper") && words.includes(cacheDir)) found.push(words);
  }
  return found;
}
