// SPDX-License-Identifier: Apache-2.0
// Power cuts for the fanotify door, on this kernel: the cache's filesystem is on a loop device, whose
// file is cloned (in one moment, by a filesystem that shares blocks) while images are mounted and
// read. On each clone, what the daemon would trust is compared with the images, byte for byte.

import { createCipheriv, createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cacheFileName, streamsDirectory } from "../../../src/kernel/fanotify/names.ts";
import { openTrusted } from "../../../src/kernel/fanotify/stored-file.ts";
import { unmount } from "../../../src/kernel/mount.ts";
import { systemClock } from "../../../src/platform/clock.ts";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { type Extent, MIB } from "../../../src/units.ts";
import { Site, end, must, program } from "../../host/support/site.ts";
import { startDaemon } from "../../support/daemon.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { type SeededRandom, seededRandom } from "../../support/seeded-random.ts";
import { bytesIn, plantDamage, wrongBlocks } from "../support/cached-bytes.ts";

const timeout = 240_000;
const IMAGES = 5;
const COPIES_MAX = 12;
const FILE_BYTES = 12 * MIB;
const READS_OF_ONE = 120;
/** A record is written when something was written, and every 5 s after that. */
const COPY_AFTER_MS_MAX = 4000;
const SEED = Number(process.env["EROFSD_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

interface Image {
  readonly tree: string;
  readonly file: string;
  readonly digest: string;
  readonly sizeBytes: number;
  readonly reference: string;
}

let native: Native;
let outer: string;
const tmpBefore = process.env["TMPDIR"];

beforeAll(async () => {
  native = loadNative({ writerThreads: 2 });
  outer = await mkdtemp(join(tmpdir(), "erofsd-outer-"));
  await must("truncate", ["-s", "4G", `${outer}.image`]);
  await must("mkfs.xfs", ["-q", "-m", "reflink=1", `${outer}.image`]);
  await must("mount", ["-o", "loop", `${outer}.image`, outer]);
  process.env["TMPDIR"] = outer;
}, timeout);

afterAll(async () => {
  if (tmpBefore === undefined) delete process.env["TMPDIR"];
  else process.env["TMPDIR"] = tmpBefore;
  unmount(outer, { lazy: true });
  await rm(outer, { recursive: true, force: true });
  await rm(`${outer}.image`, { force: true });
  await native.destroy();
}, timeout);

describe.each(["ext4", "xfs"] as const)("a cache on %s that is copied while it is used", (type) => {
  test(`is right in every copy, seed ${SEED}`, { timeout }, async () => {
    const random = seededRandom(SEED);
    const site = await Site.start({ cache: { type, bytes: 600 * MIB } });
    try {
      const images = await makeImages(site);
      const copies: string[] = [];
      let isUsed = true;
      const using = use(site, images, random).finally(() => (isUsed = false));
      await Promise.all([using, copyWhile(site, { isUsed: () => isUsed, copies, random })]);
      const trusted: number[] = [];
      for (const copy of copies) trusted.push(await checkCopy(site, { copy, type, images }));
      expect(
        Math.max(...trusted),
        `${trusted.join(", ")} bytes are trusted`,
      ).toBeGreaterThanOrEqual(MIB);
      await checkDaemonOn(site, { copy: copies.at(-1) ?? "", type, images });
    } finally {
      await site.stop();
    }
  });
});

async function makeImages(site: Site): Promise<Image[]> {
  const images: Image[] = [];
  for (let at = 0; at < IMAGES; at += 1) {
    const tree = join(site.home, `tree-${at}`);
    await mkdir(tree);
    const key = Buffer.alloc(16, at + 1);
    const noise = createCipheriv("aes-128-ctr", key, key).update(Buffer.alloc(FILE_BYTES));
    await writeFile(join(tree, "large"), noise);
    for (let n = 0; n < 50; n += 1) {
      await writeFile(join(tree, `small-${n}`), noise.subarray(n * 997, n * 1999 + 100));
    }
    const file = join(site.home, `image-${at}.erofs`);
    await mkfsErofs(file, tree, []);
    const bytes = await readFile(file);
    images.push({
      tree,
      file,
      digest: `sha256:${createHash("sha256").update(bytes).digest("hex")}`,
      sizeBytes: bytes.length,
      reference: await site.pushRaw(file, `image-${at}`),
    });
  }
  return images;
}

/** Mounts one after the other, and reads parts of each; some are unmounted again. */
async function use(site: Site, images: readonly Image[], random: SeededRandom): Promise<void> {
  for (const { reference, tree } of images) {
    const target = await site.mount(reference);
    await must("python3", [
      "-c",
      READER,
      target,
      tree,
      String(random.between(1, 2 ** 31)),
      String(READS_OF_ONE),
    ]);
    if (random.chance(0.5)) await site.umount(target);
  }
}

const READER = `
import os, random, sys, time
target, tree, seed, reads = sys.argv[1:]
r = random.Random(int(seed))
for _ in range(int(reads)):
    name = r.choice(["large", "large", "small-%d" % r.randrange(50)])
    at, length = r.randrange(os.path.getsize(os.path.join(tree, name))), r.randrange(1, 1 << 17)
    got = []
    for directory in (target, tree):
        with open(os.path.join(directory, name), "rb") as file:
            got.append(os.pread(file.fileno(), length, at))
    assert got[0] == got[1], "wrong bytes in %s at %d" % (name, at)
    time.sleep(0.02)
`;

/** In one moment each: both files are locked while the blocks become shared. */
async function copyWhile(
  site: Site,
  by: { isUsed: () => boolean; copies: string[]; random: SeededRandom },
): Promise<void> {
  const { isUsed, copies, random } = by;
  for (let at = 0; at < COPIES_MAX && isUsed(); at += 1) {
    await new Promise((resolve) => setTimeout(resolve, random.between(0, COPY_AFTER_MS_MAX)));
    const copy = join(site.home, `copy-${at}.image`);
    await must("cp", ["--reflink=always", join(site.home, "cache.image"), copy]);
    copies.push(copy);
  }
}

interface Copied {
  readonly copy: string;
  readonly type: "ext4" | "xfs";
  readonly images: readonly Image[];
}

async function withCopy<T>({ copy, type }: Copied, look: (at: string) => Promise<T>): Promise<T> {
  const at = copy.replace(".image", "");
  await mkdir(at, { recursive: true });
  // Its twin is mounted: xfs takes two filesystems of one UUID only when told.
  await must("mount", ["-o", type === "xfs" ? "loop,nouuid" : "loop", copy, at]);
  try {
    return await look(at);
  } finally {
    unmount(at, { lazy: false });
  }
}

/** How many bytes would be trusted. All of them are the images', and a bit that is turned is found. */
async function checkCopy(site: Site, copied: Copied): Promise<number> {
  return withCopy(copied, async (cacheDir) => {
    let bytes = 0;
    for (const { digest, file, sizeBytes } of copied.images) {
      const key = { volumeKey: "erofs,erofsd", cookieKey: digest };
      const path = join(streamsDirectory(cacheDir), cacheFileName(key, sizeBytes));
      const extents = await trustedOf(path, key, sizeBytes);
      expect(await wrongBlocks(path, file, extents).catch(noFile(extents)), path).toEqual([]);
      bytes += bytesIn(extents);
      if (bytesIn(extents) === 0 || copied.copy.endsWith("-0.image")) continue;
      const spoilt = join(site.home, "spoilt");
      await must("cp", ["--sparse=always", path, spoilt]);
      const at = await plantDamage(spoilt, extents);
      expect(await wrongBlocks(spoilt, file, extents)).toEqual([at]);
    }
    return bytes;
  });
}

async function trustedOf(
  path: string,
  key: { volumeKey: string; cookieKey: string },
  sizeBytes: number,
): Promise<Extent[]> {
  const log = new QuietLog();
  const opened = await openTrusted({ native, clock: systemClock, log, path, key, sizeBytes });
  if (opened === undefined) return [];
  native.close(opened.fd);
  const { size: length } = await stat(path);
  return opened.blocks.present({ offset: 0, length });
}

function noFile(extents: readonly Extent[]): (error: unknown) => number[] {
  return (error) => {
    if (extents.length > 0) throw error;
    return [];
  };
}

/** A daemon that starts on it shows every file of every image as it is. */
async function checkDaemonOn(site: Site, copied: Copied): Promise<void> {
  await withCopy(copied, async (cacheDir) => {
    const config = '[kernel]\ndoor = "fanotify"';
    const daemon = await startDaemon({ program, cacheDir, config });
    try {
      for (const [index, { reference, tree }] of copied.images.entries()) {
        const target = join(site.home, `again-${index}`);
        await mkdir(target);
        await must(process.execPath, [
          program,
          "mount",
          reference,
          target,
          "--socket",
          daemon.socketPath,
        ]);
        expect((await end("diff", ["-r", tree, target])).code).toBe(0);
        unmount(target, { lazy: false });
      }
    } finally {
      await daemon.stop();
    }
  });
}
