// SPDX-License-Identifier: Apache-2.0
// Nydus images in a real registry: fetched by their references, and once they are cached served
// by another daemon with the registry gone.

import { strictEqual } from "node:assert/strict";
import { after, before, test } from "node:test";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { expectTree, nydusImage } from "./support/nydus-images.ts";
import { pushTags } from "./support/push-layout.ts";
import { Rig } from "./support/rig.ts";
import { SLOWNESS, fullOnly } from "./support/settings.ts";

const timeout = 120_000 * SLOWNESS;
const REPOSITORY = "team/app";
const TAGS = ["nydus", "nydus-zran", "nydus-v2-dict", "nydus-multi"];

fullOnly("Nydus images in a registry", () => {
  let registry: RunningRegistry;
  let rig: Rig;
  before(async () => {
    registry = await startDockerRegistry();
    // The plain image too: the index of nydus-multi has it, and nydus-zran reads its layers.
    await pushTags({ host: registry.host, repository: REPOSITORY }, ["oci", ...TAGS]);
    rig = await Rig.beside(registry);
  });
  after(async () => {
    await rig.stop();
    await registry.stop();
  });

  const read = async (tag: string): Promise<void> => {
    const target = await rig.bareMount(`${registry.host}/${REPOSITORY}:${tag}`);
    await expectTree(target, nydusImage(tag).expectation);
    await rig.umount(target);
  };

  test(`${TAGS.join(", ")}: read whole, then without registry by the next daemon`, {
    timeout,
  }, async () => {
    for (const tag of TAGS) await read(tag);
    await rig.daemon.stop();
    await registry.stop();
    await rig.restart();
    for (const tag of TAGS) {
      const cost = await rig.costOf(() => read(tag));
      strictEqual(cost.reads, 0, `${tag}: READ messages`);
      strictEqual(cost.fetchedBytes, 0, `${tag}: bytes fetched`);
      strictEqual(cost.writtenBytes, 0, `${tag}: bytes written`);
    }
  });
});
