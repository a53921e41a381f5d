// SPDX-License-Identifier: Apache-2.0
// Every kind of image, whole: mounted by its reference, equal to its source byte for byte, and
// served from the cache alone once the registry is gone.

import { after, afterEach, before, describe, test } from "node:test";
import { match, notStrictEqual, strictEqual } from "node:assert/strict";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { dropCaches, expectSameTree } from "./support/run.ts";
import { READS_COMPRESSED, SLOWNESS, TIER } from "./support/settings.ts";

const KINDS: Readonly<Record<typeof TIER, readonly string[]>> = {
  full: [
    "plain",
    "inline",
    "chunks",
    "lz4",
    "device-unnamed",
    "device-named",
    "large",
    "large-device",
  ],
  cut: ["plain", "inline", "chunks", "lz4", "device-named"],
  smoke: ["plain", "device-named"],
};
const timeout = 60_000 * SLOWNESS;

describe("every kind of image", () => {
  let rig: Rig;
  let registry: RunningRegistry;
  before(async () => {
    registry = await startRegistry();
    rig = await Rig.beside(registry);
  });
  afterEach(() => rig.umountAll());
  after(async () => {
    await rig.stop();
    await registry.stop();
  });

  const images = KINDS[TIER].map((name) => catalogue.get(name));
  const readable = images.filter((image) => READS_COMPRESSED || !image.compressed);

  for (const image of readable) {
    test(`${image.name}: mounts, equals its source, and costs nothing when it is warm`, {
      timeout,
    }, async () => {
      const tree = catalogue.treeOf(image);
      const target = await rig.mountImage(registry.host, image);
      await expectSameTree(tree, target);
      await dropCaches();
      const warm = await rig.costOf(() => expectSameTree(tree, target));
      strictEqual(warm.reads, 0, "READ messages for what is cached");
      strictEqual(warm.requests, 0);
      await rig.umount(target);
      await rig.untilIdle();
    });
  }

  for (const image of images.filter((each) => !readable.includes(each))) {
    test(`${image.name}: is refused with the reason, since this kernel cannot read it`, {
      timeout,
    }, async () => {
      const target = await rig.directory();
      const reference = `${registry.host}/${image.repository}:${image.tag}`;
      notStrictEqual((await rig.tryBareMount(reference, target)).status, 0);
      const line = await rig.complaint("image_unsupported");
      match(line, /compressed files, which this kernel cannot read/);
      if (TIER === "full") {
        const ended = await rig.tryMount(reference, target);
        strictEqual(ended.status, 5);
        match(ended.stderr, /compressed files, which this kernel cannot read/);
      }
    });
  }

  test("without the registry every image mounts again and is served from the cache", {
    timeout: 2 * timeout,
  }, async () => {
    await registry.stop();
    for (const image of readable) {
      const cost = await rig.costOf(async () => {
        const target = await rig.mountImage(registry.host, image);
        await expectSameTree(catalogue.treeOf(image), target);
        await rig.umount(target);
        await rig.untilIdle();
      });
      strictEqual(cost.fetchedBytes, 0, `${image.name}: bytes fetched`);
      strictEqual(cost.writtenBytes, 0, `${image.name}: bytes written`);
      strictEqual(cost.reads, 0, `${image.name}: READ messages`);
    }
  });
});
