// SPDX-License-Identifier: Apache-2.0
// Cache files put in place before the kernel opens them, on a real filesystem: what they say, and
// that nothing which is there is replaced or believed.

import { mkdir, readFile, readdir, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Culled } from "../../../src/cache/cull.ts";
import { encodedObjectFile } from "../../../src/cache/disk-names.ts";
import { SeedFiles, mendVolumes, objectAttribute } from "../../../src/cache/seed-files.ts";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { tempDir } from "../../support/temp-dir.ts";

const ATTRIBUTE = "user.CacheFiles.cache";
const VOLUME = "erofs,dom";
const KEY = `sha256:${"0123456789abcdef".repeat(4)}`;

let native: Native;
beforeAll(() => {
  native = loadNative({ writerThreads: 1 });
});
afterAll(() => native.destroy());

async function rig(cullAnswer: Culled = "absent") {
  const cacheDir = await tempDir();
  // The kernel has made it when a cache is bound.
  await mkdir(join(cacheDir, "cache"));
  const log = new QuietLog();
  const culled: string[] = [];
  const seeds = new SeedFiles({
    cacheDir,
    native,
    log,
    async temporary() {
      await mkdir(join(cacheDir, "incoming"));
      return join(cacheDir, "incoming");
    },
    cull({ name }) {
      culled.push(name);
      return cullAnswer;
    },
  });
  const pathOf = (cookieKey: string): string => {
    const file = encodedObjectFile(cacheDir, { volumeKey: VOLUME, cookieKey });
    if (file === undefined) throw new Error(`no name for ${cookieKey}`);
    return join(file.directory, file.name);
  };
  const seed = (cookieKey: string, sizeBytes: number): Promise<void> =>
    seeds.seed([{ volumeKey: VOLUME, cookieKey, sizeBytes }]);
  const left = (): Promise<string[]> => readdir(join(cacheDir, "incoming")).catch(() => []);
  return { cacheDir, log, culled, seeds, seed, pathOf, left };
}

/** A file of the cache with some content and, if given, the attribute. */
async function putFile(path: string, attribute?: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, "something");
  if (attribute !== undefined) await native.setAttribute(path, ATTRIBUTE, attribute);
}

const attributeOf = (path: string): Promise<Uint8Array> => native.getAttribute(path, ATTRIBUTE, 64);

test("a seeded file is sparse, as long as its stream, and says that nothing is cached", async () => {
  const { seed, pathOf, cacheDir, left, log } = await rig();
  await seed(KEY, 10_000);
  const { size, blocks, mode } = await stat(pathOf(KEY));
  // A block for attributes that do not fit the inode is no data.
  expect({ size, isSparse: blocks <= 8, mode: mode & 0o777 }).toEqual({
    size: 12_288,
    isSparse: true,
    mode: 0o600,
  });
  expect(Buffer.from(await attributeOf(pathOf(KEY))).toString("hex")).toBe(
    "000000000000271000000000000000000100",
  );
  const volume = await attributeOf(join(cacheDir, "cache", `I${VOLUME}`));
  expect([...volume]).toEqual([0, 0, 0, 0]);
  expect([await left(), log.lines]).toEqual([[], []]);
});

test("many at once, some of them the same: one file each", async () => {
  const { seeds, cacheDir, left, log } = await rig();
  const keys = Array.from({ length: 40 }, (_, at) => `key ${at % 20}`);
  await seeds.seed(keys.map((cookieKey) => ({ volumeKey: VOLUME, cookieKey, sizeBytes: 4096 })));
  const names: string[] = [];
  for (const fan of await readdir(join(cacheDir, "cache", `I${VOLUME}`))) {
    names.push(...(await readdir(join(cacheDir, "cache", `I${VOLUME}`, fan))));
  }
  expect(new Set(names).size).toBe(20);
  expect([await left(), log.lines]).toEqual([[], []]);
});

test.each([
  ["its size", 4096],
  ["another size, which the kernel decides about", 8192],
])("a file that is there with %s is kept as it is", async (_, sizeBytes) => {
  const { seed, pathOf, culled } = await rig();
  await putFile(pathOf(KEY), objectAttribute(sizeBytes));
  await seed(KEY, 4096);
  expect(await readFile(pathOf(KEY), "utf8")).toBe("something");
  expect(culled).toEqual([]);
});

test.each([
  ["without the attribute", undefined],
  ["with one of another length", new Uint8Array(17)],
  ["with one of another type", new Uint8Array(18)],
  ["with one that says dirty", objectAttribute(4096).map((byte, at) => (at === 17 ? 4 : byte))],
])("a file %s is given to the kernel to delete, and kept while it is in use", async (_, bad) => {
  const { seed, pathOf, culled } = await rig("in use");
  await putFile(pathOf(KEY), bad);
  await seed(KEY, 4096);
  expect(culled).toEqual([`D${KEY}`]);
  expect(await readFile(pathOf(KEY), "utf8")).toBe("something");
});

test("a volume without its attribute gets it, its files are kept", async () => {
  const { cacheDir, pathOf, seed } = await rig();
  const volume = join(cacheDir, "cache", `I${VOLUME}`);
  await putFile(pathOf(KEY), objectAttribute(4096));
  await mendVolumes(cacheDir, native);
  expect([...(await attributeOf(volume))]).toEqual([0, 0, 0, 0]);
  await native.setAttribute(volume, ATTRIBUTE, Uint8Array.of(1));
  await mendVolumes(cacheDir, native);
  await seed("other", 4096);
  expect([...(await attributeOf(volume))], "what is there is for the kernel to judge").toEqual([1]);
  expect(await readFile(pathOf(KEY), "utf8")).toBe("something");
});

test("keys that the kernel does not keep apart have no file", async () => {
  const { seed, cacheDir, log } = await rig();
  await seed(`/${"y".repeat(189)}`, 4096);
  await seed("x".repeat(253), 4096);
  expect([await readdir(join(cacheDir, "cache")), log.lines]).toEqual([[], []]);
});

test("where nothing can be made it is told, and nothing is left", async () => {
  const { seed, cacheDir, log, left } = await rig();
  await writeFile(join(cacheDir, "cache", `I${VOLUME}`), "no directory");
  await native.setAttribute(join(cacheDir, "cache", `I${VOLUME}`), ATTRIBUTE, new Uint8Array(4));
  await seed(KEY, 4096);
  expect(log.messages("warn")).toEqual([expect.stringContaining("cannot be put in place")]);
  expect(await left()).toEqual([]);
});
