// SPDX-License-Identifier: Apache-2.0
// Images that are fetched whole and verified before they are mounted, on this very kernel. It needs
// what test/host/fanotify.test.ts needs.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createHash } from "node:crypto";
import { cp, mkdir, open, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ask } from "../../src/control/client.ts";
import { type MountFacts, mountsAnswer } from "../../src/control/mount-schema.ts";
import { mountThroughLoop, unmount } from "../../src/kernel/mount.ts";
import { pushTags } from "../kernel/support/push-layout.ts";
import { mkfsErofs } from "../support/mkfs.ts";
import { FIXTURES } from "../support/rafs-fixtures.ts";
import { DAMAGES, LARGE_BYTES, writeHostTree } from "./support/content.ts";
import { Site, end, listTree, must, program, withPlainMount } from "./support/site.ts";

const timeout = 120_000;

let site: Site;
let tree: string;

beforeAll(async () => {
  site = await Site.start({ kernel: 'door = "full"' });
  tree = await writeHostTree(site.home);
}, timeout);

afterAll(() => site.stop(), timeout);

beforeEach(async () => {
  await site.umountAll();
  await site.untilIdle();
}, timeout);

async function mounts(): Promise<readonly MountFacts[]> {
  const asked = { method: "GET", path: "/v1/mounts", answer: mountsAnswer } as const;
  return (await ask(site.daemon.socketPath, asked)).mounts;
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

const mountAt = (reference: string, directory: string) => {
  const at = ["--socket", site.daemon.socketPath];
  return end(process.execPath, [program, "mount", reference, directory, ...at]);
};

const diff = (one: string, other: string) => end("diff", ["-r", "--no-dereference", one, other]);
const same = { code: 0, stdout: "" };

test("a daemon whose door is full tells so", async () => {
  expect(site.daemon.log.find(({ msg }) => msg === "ready")).toMatchObject({ door: "full" });
  const at = ["--socket", site.daemon.socketPath];
  const { stdout } = await end(process.execPath, [program, "ps", ...at]);
  expect(stdout).toMatch(/^MOUNT POINT +REFERENCE +DOOR/);
});

describe("a whole image", () => {
  test.each([
    ["plain", []],
    ["chunks", ["--chunksize=65536"]],
    ["lz4", ["-zlz4"]],
    ["fragments", ["-zlz4", "-C65536", "-Efragments,ztailpacking"]],
  ])(
    "%s: needs no registry and no daemon once it is mounted",
    async (name, args) => {
      const image = join(site.home, `kind-${name}.erofs`);
      await mkfsErofs(image, tree, args);
      const mounted = await site.mount(await site.pushRaw(image, `kind-${name}`));
      expect(await mounts()).toMatchObject([{ mountPoint: mounted, door: "full", deviceCount: 0 }]);
      await site.stopRegistry();
      await site.restart(async () => {
        expect(await listTree(mounted)).toEqual(await withPlainMount(image, listTree));
      });
      expect(await mounts()).toMatchObject([{ mountPoint: mounted, door: "full", deviceCount: 0 }]);
      await site.umount(mounted);
      await site.startRegistry();
    },
    timeout,
  );

  const TAGS = ["nydus", "nydus-lz4", "nydus-none", "nydus-batch", "nydus-zran", "nydus-v2-dict"];

  test.each(TAGS)(
    "%s of Nydus, with its devices",
    async (tag) => {
      await pushTags({ host: site.registryHost, repository: "nydus" }, ["oci", ...TAGS]);
      const mounted = await site.mount(`${site.host}/nydus:${tag}`);
      await site.stopRegistry();
      const name = tag === "nydus-v2-dict" ? "v2" : "two-layers";
      const wanted = await readFile(`${FIXTURES}expect-${name}.jsonl`, "utf8");
      expect(await listTree(mounted)).toEqual(wanted.trimEnd().split("\n").toSorted());
      const [one] = await mounts();
      expect(one).toMatchObject({ door: "full", state: "mounted" });
      expect(one?.deviceCount).toBeGreaterThan(0);
      await site.umount(mounted);
      await site.startRegistry();
    },
    timeout,
  );

  test(
    "shows through loop devices what it shows from its files, and leaves none behind",
    async () => {
      const { image } = await pushOnlyHere("loop");
      const directory = join(site.home, "loop-mount");
      await mkdir(directory);
      mountThroughLoop({ primary: image, devices: [] }, directory);
      const { stdout: source } = await end("findmnt", ["-no", "SOURCE", directory]);
      expect(source).toMatch(/^\/dev\/loop\d+/);
      expect(await listTree(directory)).toEqual(await withPlainMount(image, listTree));
      unmount(directory, { lazy: false });
      await site.until("the loop device is gone", async () => {
        return (await must("losetup", ["-j", image])) === "";
      });
    },
    timeout,
  );

  test(
    "is fetched once, and goes on to be so after a restart",
    async () => {
      const { own, image, reference } = await pushOnlyHere("once");
      const before = (await site.daemon.status()).source.bytes;
      const mounted = await Promise.all([site.mount(reference), site.mount(reference)]);
      for (const one of mounted) expect(await diff(own, one)).toMatchObject(same);
      const { size } = await stat(image);
      expect((await site.daemon.status()).source.bytes - before).toBeLessThan(1.1 * size);
      for (const one of mounted) await site.umount(one);
      await site.restart();
      const again = await site.mount(reference);
      expect(await diff(own, again)).toMatchObject(same);
      expect((await site.daemon.status()).source.bytes).toBeLessThan(64 << 10);
    },
    timeout,
  );
});

describe("who asks for a mount", () => {
  test(
    "may be killed: it is made all the same, and listed while it is not there yet",
    async () => {
      const { own, reference } = await pushOnlyHere("killed");
      const directory = join(site.home, "killed-mount");
      await mkdir(directory);
      site.pauseRegistry(true);
      const args = [program, "mount", reference, directory, "--socket", site.daemon.socketPath];
      const client = spawn(process.execPath, args);
      await site.until("it is being made", async () => (await mounts()).length === 1);
      expect(await mounts()).toMatchObject([{ mountPoint: directory, state: "preparing" }]);
      client.kill("SIGKILL");
      await once(client, "exit");
      site.pauseRegistry(false);
      await site.until("it is mounted", async () => (await mounts())[0]?.state === "mounted");
      expect(await diff(own, directory)).toMatchObject(same);
    },
    timeout,
  );

  test(
    "is told what is wrong with a mount point, and nothing is left",
    async () => {
      const { reference } = await pushOnlyHere("misplaced");
      const file = join(site.home, "a-file");
      await writeFile(file, "");
      const mounted = await site.mount(reference);
      const call = async (mountPoint: string) =>
        ask(site.daemon.socketPath, {
          method: "POST",
          path: "/v1/mounts",
          body: { reference, mountPoint },
          answer: mountsAnswer,
        }).catch((error: unknown) => (error instanceof Error ? error.message : ""));
      expect(await call(file)).toBe(`mountPoint: ${file} is no directory`);
      expect(await call(`${file}-none`)).toBe(`mountPoint: ${file}-none does not exist`);
      expect(await call(mounted)).toBe(`mountPoint: ${mounted} is in use: erofs is mounted there`);
      expect(await call("relative")).toBe("mountPoint: an absolute path");
      expect(await mounts()).toHaveLength(1);
    },
    timeout,
  );

  test(
    "may give it up",
    async () => {
      const { reference } = await pushOnlyHere("given-up");
      const directory = join(site.home, "given-up-mount");
      await mkdir(directory);
      site.pauseRegistry(true);
      const mounting = mountAt(reference, directory);
      await site.until("it is being made", async () => (await mounts()).length === 1);
      await site.umount(directory);
      expect(await mounting).toMatchObject({ code: 6 });
      site.pauseRegistry(false);
      expect(await mounts()).toEqual([]);
    },
    timeout,
  );

  test(
    "and is refused when somebody reads from what shall be unmounted",
    async () => {
      const { reference } = await pushOnlyHere("busy");
      const mounted = await site.mount(reference);
      const file = await open(join(mounted, "name"));
      await expect(site.umount(mounted)).rejects.toThrow(`${mounted} is in use`);
      await file.close();
      await site.umount(mounted);
      await expect(site.umount(mounted)).rejects.toThrow("nothing is mounted there");
    },
    timeout,
  );

  test(
    "of what somebody else unmounts sees it gone",
    async () => {
      const { reference } = await pushOnlyHere("elsewhere");
      const mounted = await site.mount(reference);
      await must("umount", [mounted]);
      expect(await mounts()).toEqual([]);
    },
    timeout,
  );
});

describe("what is wrong is not mounted:", () => {
  test(
    "a blob that is not what its digest says, until it is mended",
    async () => {
      const { own, image, reference } = await pushOnlyHere("wrong");
      const bytes = await readFile(image);
      const hex = createHash("sha256").update(bytes).digest("hex");
      const blobs = join(site.home, "registry/docker/registry/v2/blobs/sha256");
      const blob = join(blobs, hex.slice(0, 2), hex, "data");
      const wrong = Buffer.from(bytes);
      wrong.write("damage", 6 << 20);
      await writeFile(blob, wrong);
      await expect(site.mount(reference)).rejects.toThrow(`not sha256:${hex}`);
      expect(await mounts()).toEqual([]);
      await writeFile(blob, bytes);
      await site.untilIdle();
      expect(await diff(own, await site.mount(reference))).toMatchObject(same);
    },
    timeout,
  );

  test.each(DAMAGES)(
    "a cache file that %s",
    async (name, damage) => {
      const { own, reference } = await pushOnlyHere(`damaged ${name}`.replaceAll(" ", "-"));
      const known = new Set(await site.cacheFiles());
      await site.umount(await site.mount(reference));
      await site.untilIdle();
      const [file = ""] = (await site.cacheFiles()).filter((path) => !known.has(path));
      await site.restart(async () => {
        await damage(file);
      });
      expect(await diff(own, await site.mount(reference))).toMatchObject(same);
      expect((await site.daemon.status()).source.bytes).toBeGreaterThan(LARGE_BYTES / 2);
    },
    timeout,
  );

  test(
    "what a daemon that died had fetched half",
    async () => {
      const { own, reference } = await pushOnlyHere("half");
      const directory = join(site.home, "half-mount");
      await mkdir(directory);
      const mounting = mountAt(reference, directory);
      await site.until("some of it is there", async () => {
        const { objects } = await site.daemon.status();
        return objects.some(({ cachedBytes }) => cachedBytes > 0);
      });
      await site.crash(() => Promise.resolve());
      await mounting;
      expect(await mounts()).toEqual([]);
      expect(await diff(own, await site.mount(reference))).toMatchObject(same);
    },
    timeout,
  );
});
