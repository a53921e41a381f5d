// SPDX-License-Identifier: Apache-2.0
// The fanotify door's cache on filesystems of its own, which fill up: what is deleted to make
// room, what a reader gets when there is none, and that all is right once there is again. The same
// on every kind of filesystem that it may be on. As fanotify.test.ts, it needs root and Linux 6.15.

import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { mkfsErofs } from "../support/mkfs.ts";
import { type CacheFilesystem, Site, end, kernelFilesystems, must } from "./support/site.ts";

const timeout = 120_000;
const MIB = 1 << 20;
const IMAGE_BYTES = 24 * MIB;
/** Of ext4's own when it is made, and more than the last per cents that must stay free. */
const SMALL = { type: "ext4", bytes: 128 * MIB } as const;

let site: Site | undefined;

afterEach(async () => {
  await site?.stop();
  site = undefined;
}, timeout);

async function started(cache: CacheFilesystem, limits?: string): Promise<Site> {
  site = await Site.start({ cache, ...(limits === undefined ? {} : { limits }) });
  return site;
}

/** An image of one large file with bytes of its own. */
async function push(at: Site, name: string) {
  const tree = join(at.home, `tree-${name}`);
  await mkdir(tree);
  const noise = ["if=/dev/urandom", `of=${join(tree, "large")}`, "bs=1M", "count=24"];
  await must("dd", [...noise, "status=none"]);
  const image = join(at.home, `${name}.erofs`);
  await mkfsErofs(image, tree);
  return { tree, reference: await at.pushRaw(image, name) };
}

const diff = (one: string, other: string) => end("diff", ["-r", one, other]);

/** Mounts it, compares all of it, and unmounts it. */
async function use(
  at: Site,
  { tree, reference }: { tree: string; reference: string },
  othersOpen = 0,
) {
  const mounted = await at.mount(reference);
  expect(await diff(tree, mounted)).toMatchObject({ code: 0, stdout: "" });
  await at.umount(mounted);
  const isClosed = async () => (await at.daemon.status()).objects.length <= othersOpen;
  await at.until("it is closed", isClosed, 40_000);
}

const fetched = async (at: Site): Promise<number> => (await at.daemon.status()).source.bytes;

describe("when room is short", () => {
  test(
    "what nobody has used for longest goes, and what is mounted stays",
    async () => {
      const at = await started(SMALL);
      const images = [];
      for (const name of ["a", "b", "c", "d", "e"]) images.push(await push(at, name));
      const [a, b, c, ...others] = images;
      if (a === undefined || b === undefined || c === undefined) throw new Error("five images");
      const mounted = await at.mount(a.reference);
      expect(await diff(a.tree, mounted)).toMatchObject({ code: 0, stdout: "" });
      await use(at, b, 1);
      await use(at, c, 1);
      await use(at, b, 1);
      for (const other of others) await use(at, other, 1);
      expect((await at.cacheFiles()).length).toBeLessThan(images.length);
      const before = await fetched(at);
      await at.stopRegistry();
      expect(await diff(a.tree, mounted)).toMatchObject({ code: 0, stdout: "" });
      await at.startRegistry();
      await at.umount(mounted);
      // The one used last is there; the one used longest ago is not.
      await use(at, others.at(-1) ?? a);
      expect((await fetched(at)) - before).toBeLessThan(IMAGE_BYTES / 2);
      await use(at, c);
      expect((await fetched(at)) - before).toBeGreaterThan(IMAGE_BYTES / 2);
      expect(at.daemon.log.some(({ msg }) => msg.includes("not used for longest"))).toBe(true);
    },
    timeout,
  );

  test(
    "and all of it is in use, readers get EIO when their time is up, and the log says why; later all is right",
    async () => {
      const at = await started(SMALL, '[limits]\nread_timeout = "3s"');
      const { tree, reference } = await push(at, "full");
      const mounted = await at.mount(reference);
      const ballast = join(at.cacheDir, "ballast");
      // As much as there is.
      await end("dd", ["if=/dev/zero", `of=${ballast}`, "bs=64k", "status=none"]);
      const large = join(mounted, "large");
      const read = await end("dd", [`if=${large}`, "of=/dev/null", "bs=1M", "status=none"]);
      expect(read).toMatchObject({ code: 1 });
      expect(read.stderr).toContain("Input/output error");
      const said = at.daemon.log.filter(({ code }) => code === "cache_no_space");
      expect(said[0]?.msg).toContain("no space to cache");
      expect(said[0]?.["hint"]).toContain("free space");
      await rm(ballast);
      await at.until("it recovers", async () => (await diff(tree, mounted)).code === 0);
      await at.umount(mounted);
    },
    timeout,
  );

  test(
    "because the cache is larger than it may be, it is made smaller",
    async () => {
      const at = await started({ ...SMALL, bytes: 400 * MIB });
      await at.restart(() => Promise.resolve(), 'size = "60MiB"');
      for (const name of ["a", "b", "c", "d"]) await use(at, await push(at, name));
      await at.until("it is smaller", async () => (await at.cacheFiles()).length === 2);
    },
    timeout,
  );
});

const KINDS = ["ext4", "xfs", "btrfs"] as const;
const here = await kernelFilesystems();

describe.each(KINDS.filter((type) => here.includes(type)))("on %s", (type) => {
  test(
    "what is cached is trusted again, but not what became a hole or was written into",
    async () => {
      const at = await started({ type, bytes: 512 * MIB });
      const one = await push(at, "one");
      await use(at, one);
      await at.restart();
      await use(at, one);
      expect(await fetched(at)).toBeLessThan(64 << 10);
      const [file = ""] = await at.cacheFiles();
      await at.restart(async () => {
        await must("dd", [
          "if=/dev/zero",
          `of=${file}`,
          "bs=4k",
          "seek=2000",
          "count=1",
          "conv=notrunc",
        ]);
      });
      await use(at, one);
      expect(await fetched(at)).toBeGreaterThan(IMAGE_BYTES / 2);
    },
    timeout,
  );

  test(
    "a crash loses no more than what was not recorded, and holes are filled anew",
    async () => {
      const at = await started({ type, bytes: 512 * MIB });
      const { tree, reference } = await push(at, "crash");
      const mounted = await at.mount(reference);
      expect(await diff(tree, mounted)).toMatchObject({ code: 0, stdout: "" });
      const [file = ""] = await at.cacheFiles();
      await at.crash(async () => {
        await must("fallocate", ["--punch-hole", "-o", String(8 * MIB), "-l", "65536", file]);
      });
      const again = await at.mount(reference);
      expect(await diff(tree, again)).toMatchObject({ code: 0, stdout: "" });
      await at.umount(again);
    },
    timeout,
  );
});
