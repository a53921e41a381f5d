// SPDX-License-Identifier: Apache-2.0
// Cache files that are put in place before the kernel opens their objects: it uses them as they are,
// from the first mount on, under whatever name.

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { encodedObjectFile } from "../../src/cache/disk-names.ts";
import { registeredImage } from "../../src/control/schema.ts";
import { ask } from "../../src/control/client.ts";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { expectSameTree, must } from "./support/run.ts";
import { DOMAIN, SLOWNESS, beyondSmoke, fullTest } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;

beyondSmoke("cache files put in place", () => {
  let rig: Rig;
  let registry: RunningRegistry;
  before(async () => {
    registry = await startRegistry();
  });
  afterEach(() => rig.stop());
  after(() => registry.stop());

  const pathOf = (cookieKey: string): string => {
    const file = encodedObjectFile(rig.cacheDir, { volumeKey: `erofs,${DOMAIN}`, cookieKey });
    ok(file !== undefined);
    return join(file.directory, file.name);
  };
  const blocksOf = async (cookieKey: string): Promise<number | undefined> =>
    (await stat(pathOf(cookieKey)).catch(() => undefined))?.blocks;
  const register = (reference: string, fsid?: string) =>
    ask(rig.daemon.socketPath, {
      method: "POST",
      path: "/v1/images",
      body: { reference, ...(fsid === undefined ? {} : { fsid }) },
      answer: registeredImage,
    });
  const named = (tag: string): string => {
    const image = catalogue.get(tag);
    return `${registry.host}/${image.repository}:${image.tag}`;
  };

  test("of an image that is registered, primary and devices fill the files that are there", {
    timeout: 2 * timeout,
  }, async () => {
    rig = await Rig.start();
    const image = await register(named("device-unnamed"));
    const keys = [image.fsid, ...image.devices];
    deepStrictEqual(
      await Promise.all(keys.map(async (key) => ((await blocksOf(key)) ?? 99) <= 8)),
      keys.map(() => true),
    );
    const target = await rig.mount(named("device-unnamed"));
    await expectSameTree(catalogue.treeOf(catalogue.get("device-unnamed")), target);
    // Nothing is closed yet: what has a name now had one before.
    for (const key of keys) ok(((await blocksOf(key)) ?? 0) > 8, `${key}: ${await blocksOf(key)}`);
    await rig.umount(target);
    await rig.untilIdle();
    const again = await rig.mount(named("device-unnamed"));
    const cost = await rig.costOf(() =>
      expectSameTree(catalogue.treeOf(catalogue.get("device-unnamed")), again),
    );
    strictEqual(cost.reads, 0);
  });

  test("a bare mount's devices have files before they are opened, its primary has none", {
    timeout: 2 * timeout,
  }, async () => {
    rig = await Rig.start();
    const target = await rig.bareMount(named("device-named"));
    await expectSameTree(catalogue.treeOf(catalogue.get("device-named")), target);
    const found = await namesIn(rig.cacheDir);
    ok(!found.some((name) => name.includes(registry.host)), found.join(" "));
    const open = (await rig.daemon.status()).objects.map(({ cookieKey }) => cookieKey);
    const devices = open.filter((key) => key !== named("device-named"));
    ok(devices.length > 0);
    for (const key of devices) ok(((await blocksOf(key)) ?? 0) > 8, `${key} in ${found.join(" ")}`);
    await rig.umount(target);
    await rig.untilIdle();
    ok(((await blocksOf(named("device-named"))) ?? 0) > 0, "it has its name since it was closed");
  });

  fullTest(
    "whatever an image is registered as, its file is where the kernel looks",
    {
      timeout: 3 * timeout,
    },
    async () => {
      rig = await Rig.start();
      const plain = catalogue.get("plain");
      for (const fsid of [
        "\t",
        "a b ",
        "ü",
        "with space",
        "a/b:c",
        "x".repeat(252),
        `/${"y".repeat(188)}`,
        "a\x7f",
      ]) {
        await register(named("plain"), fsid);
        strictEqual(((await blocksOf(fsid)) ?? 99) <= 8, true, fsid);
        const target = await rig.bareMount(fsid);
        await must("cmp", [join(catalogue.treeOf(plain), "mebibyte"), join(target, "mebibyte")]);
        ok(((await blocksOf(fsid)) ?? 0) >= 2048, `${fsid}: ${await blocksOf(fsid)}`);
        await rig.umount(target);
        await rig.untilIdle();
      }
    },
  );

  fullTest(
    "what a crash left without its attribute is mended: volume and file",
    {
      timeout: 2 * timeout,
    },
    async () => {
      rig = await Rig.start();
      const image = await register(named("plain"));
      await rig.daemon.stop();
      const volume = join(rig.cacheDir, "cache", `Ierofs,${DOMAIN}`);
      const script =
        "import os, sys; [os.removexattr(path, 'user.CacheFiles.cache') for path in sys.argv[1:]]";
      await must("python3", ["-c", script, volume, pathOf(image.fsid)]);
      await rig.restart();
      const target = await rig.mount(named("plain"));
      await expectSameTree(catalogue.treeOf(catalogue.get("plain")), target);
      ok(((await blocksOf(image.fsid)) ?? 0) >= 2048);
    },
  );
});

async function namesIn(cacheDir: string): Promise<string[]> {
  const entries = await readdir(join(cacheDir, "cache"), { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
}
