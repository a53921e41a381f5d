// SPDX-License-Identifier: Apache-2.0
// The fanotify door on this very kernel: images from a registry, mounted before their data has
// come. It needs root, Linux 6.15 or newer and a temporary directory on ext4, xfs or btrfs; where
// those are missing it fails.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { pushTags } from "../kernel/support/push-layout.ts";
import { mkfsErofs } from "../support/mkfs.ts";
import { FIXTURES } from "../support/rafs-fixtures.ts";
import { DAMAGES, LARGE_BYTES, writeHostTree } from "./support/content.ts";
import {
  Site,
  end,
  listMetadata,
  listTree,
  must,
  program,
  withPlainMount,
} from "./support/site.ts";

const timeout = 120_000;

let site: Site;
let tree: string;

beforeAll(async () => {
  site = await Site.start();
  tree = await writeHostTree(site.home);
}, timeout);

afterAll(() => site.stop(), timeout);

beforeEach(async () => {
  await site.umountAll();
  await site.untilIdle();
}, timeout);

/** An image of the tree in the registry. */
async function pushTree(name: string, args: readonly string[] = []) {
  const image = join(site.home, `${name}.erofs`);
  await mkfsErofs(image, tree, args);
  return { image, reference: await site.pushRaw(image, name) };
}

/** An image with nothing of it in the cache, nor in other tests. */
async function pushOnlyHere(name: string) {
  const own = join(site.home, `tree-${name}`);
  await cp(join(tree, "many"), join(own, "many"), { recursive: true });
  await cp(join(tree, "large"), join(own, "large"));
  await writeFile(join(own, "name"), name);
  const image = join(site.home, `${name}.erofs`);
  await mkfsErofs(image, own, []);
  return { own, image, reference: await site.pushRaw(image, name) };
}

const diff = (one: string, other: string) => end("diff", ["-r", "--no-dereference", one, other]);

describe("raw EROFS layers", () => {
  test.each([
    ["plain", []],
    ["inline-nothing", ["-Enoinline_data"]],
    ["shared-attributes", ["-x1"]],
    ["chunks", ["--chunksize=65536"]],
    ["lz4", ["-zlz4"]],
    ["lz4-large", ["-zlz4", "-C65536"]],
    ["legacy", ["-zlz4", "-Elegacy-compress"]],
    ["tails", ["-zlz4", "-Eztailpacking"]],
    ["fragments", ["-zlz4", "-C65536", "-Efragments,ztailpacking"]],
    ["all-fragments", ["-zlz4", "-C65536", "-Eall-fragments"]],
    ["dedupe", ["-zlz4", "-Ededupe"]],
  ])(
    "%s: shows what a mount of the whole file shows, before and after its data has come",
    async (name, args) => {
      const { image, reference } = await pushTree(`kind-${name}`, args);
      const mounted = await site.mount(reference);
      await site.stopRegistry();
      const metadata = await withPlainMount(image, listMetadata);
      expect(metadata.length).toBeGreaterThan(400);
      expect(await listMetadata(mounted)).toEqual(metadata);
      await site.startRegistry();
      expect(await listTree(mounted)).toEqual(await withPlainMount(image, listTree));
      expect(await diff(tree, mounted)).toMatchObject({ code: 0, stdout: "" });
      await site.umount(mounted);
    },
    timeout,
  );

  test(
    "a mount waits for metadata, not for data",
    async () => {
      const { reference } = await pushOnlyHere("early");
      await site.mount(reference);
      const [object] = (await site.daemon.status()).objects;
      expect(object?.sizeBytes).toBeGreaterThan(LARGE_BYTES);
      expect(object?.cachedBytes).toBeLessThan((object?.sizeBytes ?? 0) / 2);
      expect(await site.marks()).toHaveLength(1);
    },
    timeout,
  );

  test(
    "many readers at once each get every byte",
    async () => {
      const { own, reference } = await pushOnlyHere("crowd");
      const mounted = await site.mount(reference);
      const readers = Array.from({ length: 8 }, () => diff(own, mounted));
      for (const { code, stdout } of await Promise.all(readers))
        expect([code, stdout]).toEqual([0, ""]);
    },
    timeout,
  );

  test(
    "mounts made at once share what is fetched",
    async () => {
      const { own, image, reference } = await pushOnlyHere("together");
      const before = await site.daemon.status();
      const mounted = await Promise.all([1, 2, 3, 4].map(() => site.mount(reference)));
      for (const one of mounted)
        expect(await diff(own, one)).toMatchObject({ code: 0, stdout: "" });
      const { source, objects } = await site.daemon.status();
      expect(objects).toHaveLength(1);
      const { size } = await stat(image);
      expect(source.bytes - before.source.bytes).toBeLessThan(1.1 * size);
      for (const one of mounted) await site.umount(one);
    },
    timeout,
  );
});

describe("Nydus images", () => {
  const TAGS = ["nydus", "nydus-lz4", "nydus-none", "nydus-batch", "nydus-zran", "nydus-v2-dict"];

  // The data of nydus-zran is in the layers of oci.
  beforeAll(() => pushTags({ host: site.registryHost, repository: "nydus" }, ["oci", ...TAGS]));

  test.each(TAGS)(
    "%s shows what it was made from",
    async (tag) => {
      const mounted = await site.mount(`${site.host}/nydus:${tag}`);
      const name = tag === "nydus-v2-dict" ? "v2" : "two-layers";
      const wanted = await readFile(`${FIXTURES}expect-${name}.jsonl`, "utf8");
      expect(await listTree(mounted)).toEqual(wanted.trimEnd().split("\n").toSorted());
      await site.umount(mounted);
    },
    timeout,
  );
});

describe("what is cached", () => {
  test(
    "is not fetched again, by another mount or another daemon",
    async () => {
      const { own, reference } = await pushOnlyHere("again");
      const mounted = await site.mount(reference);
      expect(await diff(own, mounted)).toMatchObject({ code: 0, stdout: "" });
      await site.umount(mounted);
      const before = (await site.daemon.status()).source.bytes;
      const second = await site.mount(reference);
      expect(await diff(own, second)).toMatchObject({ code: 0, stdout: "" });
      expect((await site.daemon.status()).source.bytes - before).toBeLessThan(64 << 10);
      await site.umount(second);
      await site.untilIdle();
      await site.restart();
      const third = await site.mount(reference);
      expect(await diff(own, third)).toMatchObject({ code: 0, stdout: "" });
      expect((await site.daemon.status()).source.bytes).toBeLessThan(64 << 10);
    },
    timeout,
  );

  test(
    "costs nothing once it is all: the mark is gone, and no event comes",
    async () => {
      const { own, reference } = await pushOnlyHere("complete");
      const mounted = await site.mount(reference);
      expect(await site.marks()).toHaveLength(1);
      await must("cat", [join(mounted, "large")]).catch(() => "");
      expect(await diff(own, mounted)).toMatchObject({ code: 0, stdout: "" });
      const object = (await site.daemon.status()).objects[0];
      const rest = (object?.sizeBytes ?? 0) - (object?.cachedBytes ?? 0);
      // Files and metadata are all of an image but for padding, which nobody reads.
      if (rest > 0)
        await must("dd", [`if=${(await site.cacheFiles()).at(-1)}`, "of=/dev/null", "bs=1M"]);
      await site.until("the mark is gone", async () => (await site.marks()).length === 0);
      const events = (await site.daemon.status()).kernelMessages.read;
      const again = await site.mount(reference);
      expect(await diff(own, again)).toMatchObject({ code: 0, stdout: "" });
      expect((await site.daemon.status()).kernelMessages.read - events).toBeLessThanOrEqual(2);
      expect(await site.marks()).toEqual([]);
    },
    timeout,
  );

  test.each([
    ["plain", []],
    ["lz4", ["-zlz4"]],
  ])(
    "%s: is all of it after a while with fill = background, though nobody reads, and then no event comes",
    async (name, args) => {
      const { reference } = await pushTree(`background-${name}`, args);
      const mounted = await site.mount(reference, ["--fill", "background"]);
      await site.until("the mark is gone", async () => (await site.marks()).length === 0, 30_000);
      const { objects, kernelMessages } = await site.daemon.status();
      expect(objects.every(({ cachedBytes, sizeBytes }) => cachedBytes >= sizeBytes)).toBe(true);
      await site.stopRegistry();
      expect(await diff(tree, mounted)).toMatchObject({ code: 0, stdout: "" });
      expect((await site.daemon.status()).kernelMessages.read).toBe(kernelMessages.read);
      await site.startRegistry();
      await site.umount(mounted);
    },
    timeout,
  );

  test.each(DAMAGES)(
    "is not trusted after a restart when it %s",
    async (name, damage) => {
      const { own, reference } = await pushOnlyHere(`damaged ${name}`.replaceAll(" ", "-"));
      const known = new Set(await site.cacheFiles());
      const mounted = await site.mount(reference);
      expect(await diff(own, mounted)).toMatchObject({ code: 0, stdout: "" });
      await site.umount(mounted);
      await site.untilIdle();
      const [file = ""] = (await site.cacheFiles()).filter((path) => !known.has(path));
      await site.restart(async () => {
        await damage(file);
      });
      const again = await site.mount(reference);
      expect(await diff(own, again)).toMatchObject({ code: 0, stdout: "" });
      expect((await site.daemon.status()).source.bytes).toBeGreaterThan(LARGE_BYTES / 2);
      expect(site.daemon.log.some(({ msg }) => msg.includes("not trusted"))).toBe(true);
    },
    timeout,
  );

  test(
    "is kept through a crash, but for what is missing of its file",
    async () => {
      const { own, reference } = await pushOnlyHere("holes");
      const known = new Set(await site.cacheFiles());
      const mounted = await site.mount(reference);
      expect(await diff(own, mounted)).toMatchObject({ code: 0, stdout: "" });
      const readMs = Date.now();
      const [file = ""] = (await site.cacheFiles()).filter((path) => !known.has(path));
      await site.until("what was read is recorded", async () => {
        const found = await stat(`${file}.record`).catch(() => undefined);
        return (found?.mtimeMs ?? 0) > readMs;
      });
      await site.crash(async () => {
        const hole = ["-o", String(6 << 20), "-l", "65536"];
        await must("fallocate", ["--punch-hole", ...hole, file]);
      });
      const again = await site.mount(reference);
      expect(await diff(own, again)).toMatchObject({ code: 0, stdout: "" });
      const { bytes } = (await site.daemon.status()).source;
      expect(bytes).toBeGreaterThan(65_536);
      expect(bytes).toBeLessThan(LARGE_BYTES / 2);
    },
    timeout,
  );
});

describe("a registry that fails", () => {
  test(
    "gives EIO, and all is right when it is back",
    async () => {
      const { own, reference } = await pushOnlyHere("failing");
      const mounted = await site.mount(reference);
      await site.stopRegistry();
      const large = join(mounted, "large");
      const startMs = Date.now();
      const failed = await end("dd", [
        `if=${large}`,
        "of=/dev/null",
        "bs=4k",
        "skip=2500",
        "count=1",
      ]);
      expect(failed.code).toBe(1);
      expect(failed.stderr).toContain("Input/output error");
      expect(Date.now() - startMs).toBeLessThan(25_000);
      await site.startRegistry();
      await site.until("it recovers", async () => (await diff(own, mounted)).code === 0);
      await site.umount(mounted);
    },
    timeout,
  );

  test(
    "and hangs leaves readers that can be killed",
    async () => {
      const { own, reference } = await pushOnlyHere("hanging");
      const mounted = await site.mount(reference);
      site.pauseRegistry(true);
      const reader = spawn("dd", [
        `if=${join(mounted, "large")}`,
        "of=/dev/null",
        "bs=4k",
        "skip=2800",
        "count=1",
      ]);
      const ended = once(reader, "exit");
      await site.until("it waits", async () => (await site.daemon.status()).waitingReads > 0);
      const startMs = Date.now();
      reader.kill("SIGKILL");
      await ended;
      expect(Date.now() - startMs).toBeLessThan(2000);
      site.pauseRegistry(false);
      await site.until("it goes on", async () => (await diff(own, mounted)).code === 0);
    },
    timeout,
  );
});

describe("a daemon that cannot serve says why:", () => {
  const kernel = (lines: string) => `[kernel]\ndevice = "/nowhere"\n${lines}`;

  test.each([
    ["there can be no keeper", kernel(""), "no keeper", "there is no keeper (EEXIST: "],
    ["cachefiles is asked for", kernel('door = "cachefiles"'), "", "/nowhere does not exist"],
    ["the cache is on a tmpfs", kernel(""), "tmpfs", "none of ext4, xfs and btrfs"],
    ["another daemon has the cache", kernel(""), "taken", "is running already (pid "],
  ])(
    "%s",
    async (_, config, filesystem, words) => {
      const isTaken = filesystem === "taken";
      const cacheDir = isTaken ? site.cacheDir : join(site.home, "unsuitable");
      await mkdir(cacheDir, { recursive: true });
      if (filesystem === "tmpfs") await must("mount", ["-t", filesystem, "none", cacheDir]);
      if (filesystem === "no keeper") {
        await mkdir(join(cacheDir, "state"));
        await writeFile(join(cacheDir, "state/keeper"), "in the way");
      }
      const path = join(site.home, "unsuitable.toml");
      const lines = [
        config,
        `[cache]\ndir = "${cacheDir}"`,
        `[control]\nsocket = "${join(site.home, "unsuitable.sock")}"`,
      ];
      await writeFile(path, lines.join("\n"));
      const { code, stderr } = await end(process.execPath, [program, "serve", "--config", path]);
      expect(stderr).toContain(words);
      expect(code).toBe(filesystem === "taken" ? 6 : 3);
      await rm(join(cacheDir, filesystem === "no keeper" ? "state" : "nothing"), {
        recursive: true,
        force: true,
      });
      if (filesystem === "tmpfs") await must("umount", [cacheDir]);
    },
    timeout,
  );
});

describe("an image that is unmounted", () => {
  test(
    "leaves nothing open, marked or linked",
    async () => {
      const fds = await site.openFds();
      const { reference } = await pushOnlyHere("leaving");
      const mounted = await site.mount(reference);
      expect(await site.marks()).toHaveLength(1);
      await must("dd", [`if=${join(mounted, "large")}`, "of=/dev/null", "bs=1M", "count=2"]);
      await site.umount(mounted);
      await site.untilIdle();
      expect(await site.marks()).toEqual([]);
      expect(await must("ls", [join(site.cacheDir, "fanotify/open")])).toBe("");
      await site.until("fds are closed", async () => (await site.openFds()) <= fds + 8);
    },
    timeout,
  );

  test(
    "is no other's to unmount: a mount that is not ours is refused",
    async () => {
      const { image } = await pushTree("other");
      await withPlainMount(image, async (directory) => {
        await expect(site.umount(directory)).rejects.toThrow("is no mount of erofsd");
      });
    },
    timeout,
  );
});
