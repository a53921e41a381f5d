// SPDX-License-Identifier: Apache-2.0
// The daemon's life: killed, stopped with mounts, refused at the start, and what it leaves open.

import { match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { erofsd, expectSameTree, must } from "./support/run.ts";
import { DISK, SLOWNESS, TIER, beyondSmoke, fullTest } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;
const CYCLES = TIER === "full" ? 30 : 10;

beyondSmoke("the daemon's life", () => {
  let registry: RunningRegistry;
  before(async () => {
    registry = await startRegistry();
  });
  after(() => registry.stop());

  const plain = catalogue.get("plain");
  const tree = catalogue.treeOf(plain);

  async function withRig(work: (rig: Rig) => Promise<void>): Promise<void> {
    const rig = await Rig.start();
    try {
      await work(rig);
    } finally {
      await rig.stop();
    }
  }

  async function startRefused(lines: readonly string[]) {
    const config = join(await mkdtemp(join(tmpdir(), "config-")), "config.toml");
    await writeFile(config, lines.join("\n"));
    return await erofsd("serve", "--config", config);
  }

  fullTest(
    "killed while an image is mounted: after a restart, umount and mount work again",
    { timeout },
    () =>
      withRig(async (rig) => {
        const target = await rig.mountImage(registry.host, plain);
        await must("cmp", [join(tree, "mebibyte"), join(target, "mebibyte")]);
        strictEqual(await rig.daemon.stop("SIGKILL"), "SIGKILL");
        await rig.restart();
        await rig.umount(target);
        const again = await rig.mountImage(registry.host, plain);
        await expectSameTree(tree, again);
        await rig.umount(again);
      }),
  );

  fullTest("killed while readers wait: they wait for the next daemon", { timeout }, () =>
    withRig(async (rig) => {
      const large = catalogue.get("large");
      const target = await rig.mountImage(registry.host, large);
      const reader = spawn("cat", [join(target, "mib-64")], { stdio: ["ignore", "pipe", "pipe"] });
      await once(reader.stdout, "data");
      const ended = once(reader, "exit");
      reader.stdout.resume();
      await rig.daemon.stop("SIGKILL");
      await rig.restart();
      strictEqual((await ended)[0], 0);
      await expectSameTree(catalogue.treeOf(large), target);
      await rig.umount(target);
    }),
  );

  fullTest(
    "SIGTERM with an image mounted and being read: it says so and exits 0, the next one goes on",
    { timeout },
    () =>
      withRig(async (rig) => {
        const target = await rig.mountImage(registry.host, plain);
        const reader = expectSameTree(tree, target);
        await rig.untilStatus((status) => status.kernelMessages.read >= 2);
        strictEqual(await rig.daemon.stop("SIGTERM"), 0);
        await rig.daemon.untilLogged((line) => line.msg === "stopped");
        ok(
          rig.daemon.log.some((line) => /images are still mounted/.test(line.msg)),
          rig.logText(),
        );
        await rig.restart();
        await reader;
        await rig.umount(target);
      }),
  );

  fullTest("a second daemon is told that the device is in use, and exits 3", { timeout }, () =>
    withRig(async () => {
      const home = await mkdtemp(join(DISK, "second-"));
      const ended = await startRefused([
        `cache.dir = "${home}"`,
        `control.socket = "${home}/socket"`,
      ]);
      strictEqual(ended.status, 3, ended.stdout + ended.stderr);
      match(ended.stderr, /\/dev\/cachefiles is in use by another daemon/);
    }),
  );

  fullTest(
    "a cache on tmpfs is refused in one sentence, with exit status 3",
    {
      timeout,
    },
    async () => {
      const home = await mkdtemp(join(tmpdir(), "tmpfs-"));
      const ended = await startRefused([
        `cache.dir = "${home}"`,
        `control.socket = "${home}/socket"`,
      ]);
      strictEqual(ended.status, 3, ended.stdout + ended.stderr);
      match(ended.stderr, /its filesystem cannot hold the cache \(tmpfs/);
      match(ended.stderr, /hint: use ext4, xfs, or btrfs/);
    },
  );

  fullTest(
    "an unknown key of the configuration is answered with the nearest one, exit status 2",
    {
      timeout,
    },
    async () => {
      const ended = await startRefused(["[engine]", 'windw = "1MiB"']);
      strictEqual(ended.status, 2);
      match(ended.stderr, /unknown key "engine\.windw", did you mean "window"\?/);
    },
  );

  fullTest(
    "`erofsd umount` refuses what is busy or not ours, and unmounts what is",
    { timeout: 2 * timeout },
    () =>
      withRig(async (rig) => {
        const empty = await rig.directory();
        const nothing = await erofsd("umount", empty);
        strictEqual(nothing.status, 2);
        match(nothing.stderr, /is no mount of erofsd: nothing is mounted there/);
        const target = await rig.mountImage(registry.host, plain);
        const user = spawn("sh", ["-c", "echo in; read x"], {
          cwd: target,
          stdio: ["pipe", "pipe", "ignore"],
        });
        await once(user.stdout, "data");
        const busy = await erofsd("umount", target);
        strictEqual(busy.status, 2, busy.stderr);
        match(busy.stderr, /is in use\nhint: end who uses it \(`fuser -vm` tells who\)/);
        const left = once(user, "exit");
        user.stdin.end();
        await left;
        const ended = await erofsd("umount", target);
        strictEqual(ended.status, 0, ended.stderr);
        await rig.untilIdle();
      }),
  );

  test(
    `after ${CYCLES} mounts the daemon has as many descriptors open as before`,
    { timeout: 2 * timeout },
    () =>
      withRig(async (rig) => {
        const named = catalogue.get("device-named");
        const cycle = async (): Promise<void> => {
          const target = await rig.mountImage(registry.host, named);
          await must("cat", [join(target, "size-4097")]);
          await rig.umount(target);
          await rig.untilIdle();
        };
        await cycle();
        const before = await descriptorsOf(rig.daemon.pid);
        for (let at = 0; at < CYCLES; at += 1) await cycle();
        const after = await descriptorsOf(rig.daemon.pid);
        ok(
          after.total <= before.total + 1,
          `${before.total} descriptors before, ${after.total} after`,
        );
        strictEqual(after.ofKernel, before.ofKernel, "descriptors of the kernel's objects");
        notStrictEqual(before.total, 0);
      }),
  );
});

async function descriptorsOf(pid: number): Promise<{ total: number; ofKernel: number }> {
  const names = await readdir(`/proc/${pid}/fd`);
  const { stdout } = await must("ls", ["-l", `/proc/${pid}/fd`]);
  return { total: names.length, ofKernel: stdout.match(/\[cachefiles\]/g)?.length ?? 0 };
}
