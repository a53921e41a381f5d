// SPDX-License-Identifier: Apache-2.0
// Nydus images of every kind, mounted by their reference: each path shows what the tree they were
// made from has (type, mode, owner, time, size, links, device numbers, attributes, content).
// The images and what they must show: test/fixtures/rafs/README.md.

import { strictEqual } from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, describe, test } from "node:test";
import { findPackageRoot } from "../../src/platform/package-root.ts";
import { Rig } from "./support/rig.ts";
import { dropCaches, must } from "./support/run.ts";
import { SLOWNESS, TIER } from "./support/settings.ts";

const FIXTURES = new URL("test/fixtures/rafs/", findPackageRoot()).pathname;
const timeout = 60_000 * SLOWNESS;

const TWO_LAYERS = [
  "nydus",
  "nydus-lz4",
  "nydus-none",
  "nydus-batch",
  "nydus-zran",
  "nydus-prefetch",
  "nydus-multi",
];
const KINDS: Readonly<Record<typeof TIER, readonly string[]>> = {
  full: [...TWO_LAYERS, "nydus-v2-dict"],
  cut: ["nydus-batch", "nydus-zran", "nydus-v2-dict"],
  smoke: ["nydus"],
};

/** One line a path, as the fixtures' list.py prints them. */
async function expectTree(target: string, expectation: string): Promise<void> {
  const wanted = await readFile(`${FIXTURES}${expectation}.jsonl`, "utf8");
  const shown = await must("python3", [`${FIXTURES}make/list.py`, target]);
  const [got, want] = [shown.stdout, wanted].map((text) => text.trimEnd().split("\n").toSorted());
  strictEqual(got?.join("\n"), want?.join("\n"));
}

describe("Nydus images", () => {
  let rig: Rig;
  before(async () => {
    rig = await Rig.start();
  });
  afterEach(() => rig.umountAll());
  after(() => rig.stop());

  for (const tag of KINDS[TIER]) {
    test(`${tag} shows what it was made from, and costs nothing when it is warm`, {
      timeout,
    }, async () => {
      const expectation = tag === "nydus-v2-dict" ? "expect-v2" : "expect-two-layers";
      const target = await rig.mount(`oci:${FIXTURES}layout:${tag}`);
      await expectTree(target, expectation);
      await dropCaches();
      const warm = await rig.costOf(() => expectTree(target, expectation));
      strictEqual(warm.reads, 0, "READ messages for what is cached");
      strictEqual(warm.fetchedBytes, 0);
      await rig.umount(target);
      await rig.untilIdle();
    });
  }
});
