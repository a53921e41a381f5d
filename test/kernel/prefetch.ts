// SPDX-License-Identifier: Apache-2.0
// Prefetch of images that are not mounted: the kernel asks for nothing of what was prefetched, and an
// image may be mounted while it is being prefetched.

import { ok, strictEqual } from "node:assert/strict";
import { after, before, test } from "node:test";
import * as z from "zod";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { erofsd, expectSameTree } from "./support/run.ts";
import { SLOWNESS, fullOnly } from "./support/settings.ts";

const timeout = 120_000 * SLOWNESS;
const view = z.looseObject({
  id: z.string(),
  state: z.string(),
  cachedBytes: z.number(),
  totalBytes: z.number(),
});

fullOnly("prefetch", () => {
  let registry: RunningRegistry;
  let rig: Rig;
  before(async () => {
    registry = await startRegistry();
    rig = await Rig.beside(registry);
  });
  after(async () => {
    await rig.stop();
    await registry.stop();
  });

  const prefetch = async (...args: string[]): Promise<string> => {
    const ended = await erofsd("prefetch", ...args, "--socket", rig.daemon.socketPath);
    strictEqual(ended.status, 0, `${ended.stderr}\n${rig.logText()}`);
    return ended.stdout;
  };
  const until = async (id: string, test: (one: z.infer<typeof view>) => boolean): Promise<void> => {
    await rig.untilStatus(async () => {
      const list = z
        .object({ prefetches: z.array(view) })
        .parse(JSON.parse(await prefetch("ls", "--json")));
      const found = list.prefetches.find((one) => one.id === id);
      return found !== undefined && test(found);
    });
  };

  test("before a mount makes the mount and every read hit", { timeout }, async () => {
    const image = catalogue.get("plain");
    const reference = `${registry.host}/${image.repository}:${image.tag}`;
    const last = view.parse(JSON.parse(await prefetch(reference, "--json")));
    strictEqual(last.state, "done");
    strictEqual(last.cachedBytes, last.totalBytes);
    await rig.untilIdle();
    let target = "";
    const cost = await rig.costOf(async () => {
      target = await rig.mount(reference);
      await expectSameTree(catalogue.treeOf(image), target);
    });
    strictEqual(cost.reads, 0, JSON.stringify(cost));
    ok(cost.fetchedBytes < 64 * 1024, JSON.stringify(cost));
    await rig.umount(target);
    await rig.untilIdle();
    // And once more after a restart.
    await rig.daemon.stop();
    await rig.restart();
    const again = await rig.costOf(async () => {
      target = await rig.mount(reference);
      await expectSameTree(catalogue.treeOf(image), target);
    });
    strictEqual(again.reads, 0, JSON.stringify(again));
    await rig.umount(target);
  });

  test("goes on beside a mount, and after its end", { timeout }, async () => {
    const image = catalogue.get("large");
    const reference = `${registry.host}/${image.repository}:${image.tag}`;
    const started = await prefetch(reference, "--limit-rate", "1MB", "--detach", "--json");
    const { id } = view.parse(JSON.parse(started));
    await until(id, ({ cachedBytes }) => cachedBytes > 0);
    const target = await rig.mount(reference);
    await expectSameTree(catalogue.treeOf(image), target);
    await rig.umount(target);
    await prefetch("set", id, "--limit-rate", "0");
    await until(id, ({ state }) => state === "done");
    await rig.untilIdle();
    const cost = await rig.costOf(async () => {
      const again = await rig.mount(reference);
      await expectSameTree(catalogue.treeOf(image), again);
      await rig.umount(again);
    });
    strictEqual(cost.reads, 0, JSON.stringify(cost));
  });
});
