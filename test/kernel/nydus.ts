// SPDX-License-Identifier: Apache-2.0
// Nydus images of every kind, mounted by their reference, bare and by `erofsd mount`: each path
// shows what the tree they were made from has (type, mode, owner, time, size, links, device
// numbers, attributes, content), and what is cached by one mount costs the next one nothing.

import { strictEqual } from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { NYDUS_IMAGES, expectTree } from "./support/nydus-images.ts";
import { Rig } from "./support/rig.ts";
import { SLOWNESS, TIER } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;

const KINDS: Readonly<Record<typeof TIER, readonly string[]>> = {
  full: NYDUS_IMAGES.map(({ name }) => name),
  cut: ["nydus-batch"],
  smoke: ["nydus"],
};

describe("Nydus images", () => {
  let rig: Rig;
  before(async () => {
    rig = await Rig.start();
  });
  afterEach(() => rig.umountAll());
  after(() => rig.stop());

  for (const { name, reference, expectation } of NYDUS_IMAGES) {
    if (!KINDS[TIER].includes(name)) continue;
    test(`${name} shows what it was made from, and costs nothing when it is warm`, {
      timeout,
    }, async () => {
      const bare = await rig.bareMount(reference);
      await expectTree(bare, expectation);
      const target = await rig.mount(reference);
      const warm = await rig.costOf(() => expectTree(target, expectation));
      strictEqual(warm.reads, 0, "READ messages for what is cached");
      strictEqual(warm.requests, 0);
      for (const mounted of [target, bare]) await rig.umount(mounted);
      await rig.untilIdle();
    });
  }
});
