// SPDX-License-Identifier: Apache-2.0
// Cuts a guest's power again and again, always on the same disk: host KERNEL CUTS SEED IMAGES.
// The guest is killed as `scripts/guest/run` kills one, with SIGKILL: what its kernel has not written
// to the disk is lost. Ends with `N passed, N failed`, one for each cut and one for the last look.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { type SeededRandom, seededRandom } from "../../support/seeded-random.ts";
import { FOUND, LEDGER_FILE, type Ledger, SYNCED, ledger } from "./ledger.ts";

const [, , kernel = "uml-6.12", cutsWord = "2", seedWord = "1", images = ""] = process.argv;
const cuts = Number(cutsWord);
const seed = Number(seedWord);
const isEmulated = kernel.startsWith("qemu");
/** From the first time that something was surely on disk. */
const CUT_AFTER_MS_MAX = isEmulated ? 30_000 : 5_000;
const GUEST_SECONDS_MAX = isEmulated ? 900 : 240;
const root = fileURLToPath(findPackageRoot());

const home = await mkdtemp(join(tmpdir(), "erofsd-power-cut-"));
const out = join(home, "out");
await mkdir(out);
await writeLedger({ cuts: 0, files: {} });
console.log(`power cuts on ${kernel}, seed ${seed}`);
let [passed, failed] = [0, 0];
try {
  const random = seededRandom(seed);
  for (let at = 1; at <= cuts && failed === 0; at += 1) {
    count(await cutOnce(at, random));
  }
  if (failed === 0) count(await checkLast());
} finally {
  await rm(home, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

function count(problem: string | undefined): void {
  if (problem === undefined) passed += 1;
  else failed += 1;
  if (problem !== undefined) console.log(problem);
}

/** What went wrong; undefined when the guest ran until it was cut. */
async function cutOnce(number: number, random: SeededRandom): Promise<string | undefined> {
  const guest = startGuest("cut", random.between(1, 2 ** 31));
  const afterMs = random.between(0, CUT_AFTER_MS_MAX);
  let last: Ledger | undefined;
  let cut: NodeJS.Timeout | undefined;
  const output = readLines(guest, (line) => {
    if (!line.startsWith(SYNCED)) return;
    last = ledger.parse(JSON.parse(line.slice(SYNCED.length)));
    cut ??= setTimeout(() => guest.kill("SIGTERM"), afterMs);
  });
  await once(guest, "close");
  clearTimeout(cut);
  if (last === undefined || guest.exitCode !== 143) {
    return `cut ${number}: the guest ended with ${guest.exitCode}\n${output().join("\n")}`;
  }
  await writeLedger(last);
  console.log(`cut ${number}: ${afterMs} ms after the first sync`);
  return undefined;
}

async function checkLast(): Promise<string | undefined> {
  const guest = startGuest("check", seed);
  const output = readLines(guest, () => undefined);
  await once(guest, "close");
  if (guest.exitCode === 0) return undefined;
  return `the last look: the guest ended with ${guest.exitCode}\n${output().join("\n")}`;
}

function startGuest(mode: "cut" | "check", guestSeed: number): ChildProcess {
  const tier = isEmulated ? "cut" : "full";
  const program = join(root, ".build/test/fault/power-cut/guest.js");
  const args = ["--kernel", kernel, "--disk-file", join(home, "disk"), "--disk-mb", "1024"];
  const limits = ["--limit", String(GUEST_SECONDS_MAX), "--out", out];
  const command = ["node", program, tier, images, String(guestSeed), mode];
  return spawn(join(root, "scripts/guest/run"), [...args, ...limits, "--", ...command], {
    stdio: ["ignore", "pipe", "pipe"],
  });
}

/** Tells `onLine` of each line, and gives those that are for people to read. */
function readLines(guest: ChildProcess, onLine: (line: string) => void): () => string[] {
  const kept: string[] = [];
  for (const stream of [guest.stdout, guest.stderr]) {
    if (stream === null) throw new Error("the guest has no output");
    createInterface({ input: stream }).on("line", (line) => {
      if (line.startsWith(FOUND)) console.log(`  ${line.slice(FOUND.length)}`);
      else if (!line.startsWith(SYNCED)) kept.push(line);
      onLine(line);
    });
  }
  return () => kept.slice(-60);
}

function writeLedger(document: Ledger): Promise<void> {
  return writeFile(join(out, LEDGER_FILE), JSON.stringify(document));
}
