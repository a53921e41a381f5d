// SPDX-License-Identifier: Apache-2.0
// Runs in a guest whose power is cut, on a disk that outlives it: guest TIER IMAGES SEED cut|check.
// First the cache is checked as the last cut left it, before any daemon runs; then images are mounted
// and read, every byte compared. `cut` goes on reading until the guest is killed; `check` reads all.

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { mkdir, open, readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { encodedObjectFile } from "../../../src/cache/disk-names.ts";
import { loadNative } from "../../../src/platform/native.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import type { TestImage } from "../../kernel/images/catalogue.ts";
import { expectTree, nydusImage } from "../../kernel/support/nydus-images.ts";
import { catalogue, startRegistry } from "../../kernel/support/rig.ts";
import { erofsd, expectSameTree, must } from "../../kernel/support/run.ts";
import { DISK, DOMAIN, PROGRAM, SLOWNESS } from "../../kernel/support/settings.ts";
import { startDaemon } from "../../support/daemon.ts";
import { type SeededRandom, seededRandom } from "../../support/seeded-random.ts";
import { bytesIn, dataOf, lostOf, plantDamage, wrongBlocks } from "../support/cached-bytes.ts";
import { FOUND, LEDGER_FILE, type Ledger, SYNCED, ledger } from "./ledger.ts";

const [, , , , seedWord = "1", mode = "check"] = process.argv;
const CACHE = join(DISK, "cache");
const ROOT = join(CACHE, "cache", `Ierofs,${DOMAIN}`);
const READERS = 4;
const REGISTRY_PORT = 5000;
const READ_BYTES_MAX = 64 << 10;

/** Registered before it is mounted: all its files have names from the start. */
const SEEDED = catalogue.get("large-device");
/** Mounted by its reference alone: its devices have names, its primary none before it is closed. */
const BARE = catalogue.get("device-named");
const NYDUS = nydusImage("nydus");

const native = loadNative({ writerThreads: 2 });
const found = (text: string): void => {
  console.log(`${FOUND}${text}`);
};

const before = await readLedger();
await checkCache(before);
const registry = await startRegistry(REGISTRY_PORT);
const config = SLOWNESS > 1 ? '[limits]\nopen_timeout = "2m"\nread_timeout = "2m"' : "";
const daemon = await startDaemon({ program: PROGRAM, cacheDir: CACHE, config });
const mounts = await mountAll();
if (mode === "cut") {
  const random = seededRandom(Number(seedWord));
  await Promise.race([...Array.from({ length: READERS }, () => readForEver(random)), keepLedger()]);
} else {
  await checkAllReads();
  for (const target of mounts.values()) await must("umount", [target]);
  strictEqual(await daemon.stop(), 0);
  await registry.stop();
  await checkChecker();
  await native.destroy();
  console.log(`${FOUND}nothing wrong`);
}

async function readLedger(): Promise<Ledger> {
  const text = await readFile(join("/mnt/out", LEDGER_FILE), "utf8");
  return ledger.parse(JSON.parse(text));
}

/** What the disk has after a cut: all that was synced, and nothing that is not the image's. */
async function checkCache({ cuts, files }: Ledger): Promise<void> {
  if (cuts === 0) return;
  let kept = 0;
  for (const [name, extents] of Object.entries(files)) {
    const now = await dataOf(native, join(ROOT, name));
    ok(now !== undefined, `${name} is gone, with ${bytesIn(extents)} bytes that were synced`);
    deepStrictEqual(lostOf(extents, now), [], `of ${name}, which was synced`);
    kept += bytesIn(extents);
  }
  const checked = await checkBytes();
  const seeded = bytesIn(files[nameOf(await manifestOf(SEEDED))] ?? []);
  ok(seeded > 0, "nothing of the registered image's primary was synced");
  const bare = await dataOf(native, join(ROOT, nameOf(referenceOf(BARE))));
  strictEqual(bare, undefined, "a bare mount's primary has a name before it is closed");
  found(
    `cut ${cuts}: ${mib(kept)} that were synced are there; ${mib(checked)} compared, all right`,
  );
}

/** Compares every raw stream's cached bytes with the registry's; how many. */
async function checkBytes(): Promise<number> {
  let bytes = 0;
  for (const [key, digest] of await rawStreams()) {
    const path = join(ROOT, nameOf(key));
    const extents = await dataOf(native, path);
    if (extents === undefined) continue;
    deepStrictEqual(await wrongBlocks(path, blobPath(digest), extents), [], path);
    bytes += bytesIn(extents);
  }
  return bytes;
}

/** The keys under which raw layers may be cached, with the layers' digests. */
async function rawStreams(): Promise<[key: string, digest: string][]> {
  const streams: [string, string][] = [[referenceOf(BARE), primaryOf(BARE)]];
  streams.push([await manifestOf(SEEDED), primaryOf(SEEDED)]);
  for (const { digest } of [...SEEDED.layers, ...BARE.layers]) {
    streams.push([digest, digest], [digest.slice("sha256:".length), digest]);
  }
  return streams;
}

/** A bit that is turned on the disk would have been found. */
async function checkChecker(): Promise<void> {
  const path = join(ROOT, nameOf(await manifestOf(SEEDED)));
  const at = await plantDamage(path, (await dataOf(native, path)) ?? []);
  const extents = (await dataOf(native, path)) ?? [];
  deepStrictEqual(await wrongBlocks(path, blobPath(primaryOf(SEEDED)), extents), [at]);
  const less = extents.map(({ offset, length }) => ({ offset, length: length - BLOCK_BYTES }));
  ok(lostOf(extents, less).length > 0);
}

async function mountAll(): Promise<ReadonlyMap<string, string>> {
  const targets = new Map<string, string>();
  const make = async (name: string): Promise<string> => {
    const target = join("/tmp", `mnt-${name}`);
    await mkdir(target);
    targets.set(name, target);
    return target;
  };
  for (const [name, reference] of [
    ["seeded", referenceOf(SEEDED)],
    ["nydus", NYDUS.reference],
  ] as const) {
    const ended = await erofsd("mount", "--socket", daemon.socketPath, reference, await make(name));
    strictEqual(ended.status, 0, ended.stderr);
  }
  const options = `fsid=${referenceOf(BARE)},domain_id=${DOMAIN}`;
  await must("mount", ["-t", "erofs", "-o", options, "none", await make("bare")]);
  return targets;
}

async function checkAllReads(): Promise<void> {
  await expectSameTree(catalogue.treeOf(SEEDED), targetOf("seeded"));
  await expectSameTree(catalogue.treeOf(BARE), targetOf("bare"));
  await expectTree(targetOf("nydus"), NYDUS.expectation);
}

/** Random parts of random files, each compared with what it was made from. */
async function readForEver(random: SeededRandom): Promise<never> {
  const trees = [
    { source: catalogue.treeOf(SEEDED), target: targetOf("seeded") },
    { source: catalogue.treeOf(BARE), target: targetOf("bare") },
  ];
  const lists = await Promise.all(trees.map(({ source }) => filesIn(source)));
  for (;;) {
    const which = random.between(0, trees.length - 1);
    const { source = "", target = "" } = trees[which] ?? {};
    const file = random.pick(lists[which] ?? []);
    if (file !== undefined) {
      const at = random.between(0, Math.max(0, file.size - 1));
      const length = random.between(1, READ_BYTES_MAX);
      const [is, shouldBe] = await Promise.all(
        [target, source].map((directory) => readPart(join(directory, file.name), at, length)),
      );
      if (is?.compare(shouldBe ?? Buffer.alloc(0)) !== 0) {
        throw new Error(`wrong bytes in ${file.name} at ${at}`);
      }
    }
    if (random.chance(0.02)) await expectTree(targetOf("nydus"), NYDUS.expectation);
    await sleep(random.between(0, 20));
  }
}

/** Says again and again what is on disk for certain. */
async function keepLedger(): Promise<never> {
  for (;;) {
    const files: Ledger["files"] = {};
    for (const fan of await readdir(ROOT)) {
      for (const name of await readdir(join(ROOT, fan))) {
        files[join(fan, name)] = [...((await dataOf(native, join(ROOT, fan, name))) ?? [])];
      }
    }
    await must("sync", ["-f", DISK]);
    console.log(`${SYNCED}${JSON.stringify({ cuts: before.cuts + 1, files })}`);
    await sleep(200 * SLOWNESS);
  }
}

async function filesIn(tree: string): Promise<{ name: string; size: number }[]> {
  const entries = await readdir(tree, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return Promise.all(
    files.map(async ({ parentPath, name }) => {
      const path = join(parentPath, name);
      return { name: path.slice(tree.length), size: (await stat(path)).size };
    }),
  );
}

async function readPart(path: string, at: number, length: number): Promise<Buffer> {
  const file = await open(path);
  try {
    const bytes = Buffer.alloc(length);
    const { bytesRead } = await file.read(bytes, 0, length, at);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

function nameOf(cookieKey: string): string {
  const file = encodedObjectFile(CACHE, { volumeKey: `erofs,${DOMAIN}`, cookieKey });
  ok(file !== undefined);
  return join(file.directory.slice(ROOT.length + 1), file.name);
}

function targetOf(name: string): string {
  const target = mounts.get(name);
  ok(target !== undefined);
  return target;
}

function referenceOf({ repository, tag }: TestImage): string {
  return `127.0.0.1:${REGISTRY_PORT}/${repository}:${tag}`;
}

/** The manifest's digest, which is the key of a registered image with devices. */
async function manifestOf({ repository, tag }: TestImage): Promise<string> {
  const tags = join(
    catalogue.storage,
    "docker/registry/v2/repositories",
    repository,
    "_manifests/tags",
  );
  return readFile(join(tags, tag, "current/link"), "utf8");
}

function primaryOf({ name, layers }: TestImage): string {
  const digest = layers.at(-1)?.digest;
  ok(digest !== undefined, name);
  return digest;
}

function blobPath(digest: string): string {
  const hex = digest.slice("sha256:".length);
  return join(catalogue.storage, "docker/registry/v2/blobs/sha256", hex.slice(0, 2), hex, "data");
}

function mib(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
