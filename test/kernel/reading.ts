// SPDX-License-Identifier: Apache-2.0
// Ways of reading: in order, at random, mapped, by many at once, through two mounts; and what
// each may cost in kernel messages, requests and bytes.

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { type FileHandle, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { MIB } from "../../src/units.ts";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { buildImage, writeLayout } from "../support/oci-image.ts";
import { PROGRAM as MAPPED_PROGRAM } from "./images/trees.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { dropCaches, expectSameFile, expectSameTree, must, run } from "./support/run.ts";
import { DISK, SLOWNESS, TIER, beyondSmoke, fullTest } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;
const isFull = TIER === "full";
/**
 * At the default window of 1 MiB, for one file of 32 MiB, mount included: a MiB each, the manifest,
 * the first bytes that an OPEN looks at, and a rest at either end.
 */
/** With what lies on either side of the first window, which an idle link brings. */
const REQUESTS_MAX = 40;
const READS_MAX = 40;
const FETCHED_PER_BYTE_MAX = 1.1;

beyondSmoke("reading", () => {
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

  fullTest(
    "32 MiB in order cost few requests, few READs and hardly a byte too much",
    {
      timeout,
    },
    async () => {
      const image = catalogue.get("sequential");
      const file = join(catalogue.treeOf(image), "mib-32");
      let target = "";
      const cold = await rig.costOf(async () => {
        target = await rig.mountImage(registry.host, image);
        await must("sh", ["-c", `exec cat ${join(target, "mib-32")} >/dev/null`]);
      });
      const shown = JSON.stringify(cold);
      ok(cold.requests <= REQUESTS_MAX, shown);
      ok(cold.reads <= READS_MAX, shown);
      ok(cold.fetchedBytes <= FETCHED_PER_BYTE_MAX * 32 * MIB, shown);
      ok(cold.fetchedBytes <= FETCHED_PER_BYTE_MAX * cold.writtenBytes, shown);
      await dropCaches();
      const warm = await rig.costOf(() => expectSameFile(file, join(target, "mib-32")));
      deepStrictEqual([warm.reads, warm.requests, warm.fetchedBytes], [0, 0, 0]);
      await rig.umount(target);
    },
  );

  test("random reads give the source's bytes", { timeout }, async () => {
    const image = catalogue.get(isFull ? "large-device" : "device-named");
    const name = isFull ? "mib-64" : "odd-end";
    const target = await rig.mountImage(registry.host, image);
    await comparePreads(join(catalogue.treeOf(image), name), join(target, name), isFull ? 300 : 40);
    await rig.umount(target);
    await rig.untilIdle();
  });

  test("a program runs from the mount", { timeout }, async () => {
    const target = await rig.mountImage(registry.host, catalogue.get("chunks"));
    const program = join(target, MAPPED_PROGRAM);
    const { stdout } = await must("sh", ["-c", `exec ${program} ${program}`]);
    const [expected] = (await must("sha256sum", ["/usr/bin/sha256sum"])).stdout.split(" ");
    strictEqual(stdout, `${expected}  ${program}\n`);
    await rig.umount(target);
  });

  test("8 concurrent readers of the same files get the same bytes, each fetched once", {
    timeout: 2 * timeout,
  }, async () => {
    const image = catalogue.get("inline");
    const tree = catalogue.treeOf(image);
    const cost = await rig.costOf(async () => {
      const target = await rig.mountImage(registry.host, image);
      await Promise.all(Array.from({ length: 8 }, () => expectSameTree(tree, target)));
      await rig.umount(target);
    });
    const size = image.layers[0]?.size ?? 0;
    ok(cost.fetchedBytes <= FETCHED_PER_BYTE_MAX * size, `${cost.fetchedBytes} of ${size} bytes`);
  });

  fullTest(
    "readers killed in the middle leave nothing behind",
    {
      timeout,
    },
    async () => {
      const image = catalogue.get("large");
      const target = await rig.mountImage(registry.host, image);
      const path = join(target, "mib-64");
      await Promise.all(
        [10, 40, 90].map((ms) => run("timeout", ["-s", "KILL", String(ms / 1000), "cat", path])),
      );
      await expectSameTree(catalogue.treeOf(image), target);
      const status = await rig.untilStatus(({ waitingReads }) => waitingReads === 0);
      strictEqual(status.waitingReads, 0);
      await rig.umount(target);
    },
  );

  fullTest(
    "a second `erofsd mount` of an image shows the first one's, and fetches nothing more",
    {
      timeout,
    },
    async () => {
      const image = catalogue.get("device-unnamed");
      const reference = `${registry.host}/${image.repository}:${image.tag}`;
      const first = await rig.mount(reference);
      await expectSameTree(catalogue.treeOf(image), first);
      let second = "";
      const cost = await rig.costOf(async () => {
        second = await rig.mount(reference);
        await expectSameTree(catalogue.treeOf(image), second);
      });
      strictEqual(cost.reads, 0);
      ok(cost.fetchedBytes < 10_000, `${cost.fetchedBytes} bytes fetched for the second mount`);
      await rig.umount(first);
      await expectSameTree(catalogue.treeOf(image), second);
      await rig.umount(second);
      await rig.untilIdle();
    },
  );

  test("two images over one device blob share what is cached of it", { timeout }, async () => {
    const named = catalogue.get("device-named");
    const twin = catalogue.get("device-twin");
    strictEqual(named.layers[0]?.digest, twin.layers[0]?.digest, "the device blob");
    const first = await rig.mountImage(registry.host, named);
    await expectSameTree(catalogue.treeOf(named), first);
    let second = "";
    const cost = await rig.costOf(async () => {
      second = await rig.mountImage(registry.host, twin);
      await expectSameTree(catalogue.treeOf(twin), second);
    });
    const bootstrapSize = twin.layers.at(-1)?.size ?? 0;
    ok(cost.fetchedBytes <= bootstrapSize + 20_000, `${cost.fetchedBytes} bytes fetched`);
    await rig.umount(first);
    await rig.umount(second);
    await rig.untilIdle();
  });

  fullTest(
    "an image-layout directory is mounted and read like a registry",
    {
      timeout,
    },
    async () => {
      const image = catalogue.get("plain");
      const layout = join(DISK, "layout");
      const bytes = await readFile(catalogue.fileOf(image));
      const built = buildImage([{ bytes, mediaType: "application/vnd.erofs" }]);
      const annotations = { "org.opencontainers.image.ref.name": "v1" };
      await writeLayout(layout, {
        blobs: [built.manifest, built.config, ...built.layers],
        manifests: [{ ...built.descriptor, annotations }],
      });
      for (const mount of [
        () => rig.mount(`oci:${layout}:v1`),
        () => rig.bareMount(`oci:${layout}:v1`),
      ]) {
        const target = await mount();
        await expectSameTree(catalogue.treeOf(image), target);
        await rig.umount(target);
        await rig.untilIdle();
      }
    },
  );
});

/** `count` reads at seeded offsets and lengths, from both files. */
async function comparePreads(
  expectedPath: string,
  actualPath: string,
  count: number,
): Promise<void> {
  const expected = await open(expectedPath);
  const actual = await open(actualPath);
  try {
    const { size } = await expected.stat();
    let state = 12_345;
    const next = (below: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    for (let at = 0; at < count; at += 1) {
      const offset = next(size);
      const length = 1 + next(at % 4 === 0 ? 300_000 : 5000);
      const [want, got] = [
        await pread(expected, offset, length),
        await pread(actual, offset, length),
      ];
      ok(want.equals(got), `${length} bytes at ${offset}`);
    }
  } finally {
    await expected.close();
    await actual.close();
  }
}

async function pread(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await file.read(bytes, 0, length, offset);
  return bytes.subarray(0, bytesRead);
}
