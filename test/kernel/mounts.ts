// SPDX-License-Identifier: Apache-2.0
// Mounts over the control API, and images that are fetched whole first: from files, or through loop
// devices where this kernel's EROFS takes nothing else.

import { after, afterEach, before, test } from "node:test";
import { match, ok, strictEqual } from "node:assert/strict";
import { ask } from "../../src/control/client.ts";
import { type MountFacts, mountsAnswer } from "../../src/control/mount-schema.ts";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { dropCaches, erofsd, expectSameTree, must } from "./support/run.ts";
import {
  PROGRAM,
  READS_COMPRESSED,
  SLOWNESS,
  TIER,
  beyondSmoke,
  fullOnly,
} from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;

async function mountsOf(rig: Rig): Promise<readonly MountFacts[]> {
  const asked = { method: "GET", path: "/v1/mounts", answer: mountsAnswer } as const;
  return (await ask(rig.daemon.socketPath, asked)).mounts;
}

fullOnly("mounts over the control API", () => {
  let registry: RunningRegistry;
  let rig: Rig;
  before(async () => {
    registry = await startRegistry();
    rig = await Rig.beside(registry);
  });
  afterEach(() => rig.umountAll());
  after(async () => {
    await rig.stop();
    await registry.stop();
  });

  const plain = catalogue.get("plain");
  const device = catalogue.get("device-named");
  const referenceOf = ({ repository, tag }: typeof plain) =>
    `${registry.host}/${repository}:${tag}`;

  test("are listed whoever made them, until somebody unmounts them", { timeout }, async () => {
    const bare = await rig.bareMount(referenceOf(plain));
    const made = await rig.mount(referenceOf(device));
    const mounts = await mountsOf(rig);
    const facts = mounts.map(({ mountPoint, door, reference, deviceCount }) =>
      [mountPoint, door, reference, deviceCount].join(" "),
    );
    strictEqual(
      facts.toSorted().join("\n"),
      [`${bare} cachefiles ${referenceOf(plain)} 0`, `${made} cachefiles ${referenceOf(device)} 1`]
        .toSorted()
        .join("\n"),
    );
    await rig.umount(bare);
    strictEqual((await mountsOf(rig)).length, 1);
    const ended = await erofsd("umount", made, "--socket", rig.daemon.socketPath);
    strictEqual(ended.status, 0, ended.stderr);
    strictEqual((await mountsOf(rig)).length, 0);
  });

  test("are refused where something is mounted", { timeout }, async () => {
    const target = await rig.mount(referenceOf(plain));
    const ended = await rig.tryMount(referenceOf(device), target);
    strictEqual(ended.status, 2);
    match(ended.stderr, /is in use: erofs is mounted there/);
    strictEqual((await mountsOf(rig)).length, 1);
  });

  test("may be of a whole image beside those that are loaded on demand", { timeout }, async () => {
    const target = await rig.directory();
    await must(process.execPath, [
      PROGRAM,
      "mount",
      "--door=full",
      `--socket=${rig.daemon.socketPath}`,
      referenceOf(plain),
      target,
    ]);
    const [mount] = await mountsOf(rig);
    strictEqual(mount?.door, "full");
    await expectSameTree(catalogue.treeOf(plain), target);
    await must("umount", [target]);
  });
});

beyondSmoke("whole images", () => {
  let registry: RunningRegistry | undefined;
  let rig: Rig;
  before(async () => {
    const started = await startRegistry();
    registry = started;
    // No cachefiles, and this kernel has no pre-content events.
    const limits =
      '[limits]\nopen_timeout = "2m"\nread_timeout = "2m"\n[registry]\nconnect_timeout = "1m"\n';
    rig = await Rig.beside(started, `[kernel]\ndevice = "/nowhere"\n${limits}`);
  });
  afterEach(() => rig.umountAll());
  after(async () => {
    await rig.stop();
    await registry?.stop();
  });

  const names =
    TIER === "full"
      ? ["plain", "chunks", "lz4", "device-named", "large-device"]
      : ["plain", "device-named"];
  const images = names
    .map((name) => catalogue.get(name))
    .filter((image) => READS_COMPRESSED || !image.compressed);

  test("are what a daemon serves that finds no door, and it says so in one line", {
    timeout,
  }, () => {
    const lines = rig.daemon.log.filter(({ msg }) => msg.startsWith("no door to load images"));
    strictEqual(lines.length, 1);
    match(String(lines[0]?.["cachefiles"]), /nowhere does not exist/);
    strictEqual(rig.daemon.log.find(({ msg }) => msg === "ready")?.["door"], "full");
  });

  test("need neither registry nor daemon once they are mounted", {
    timeout: 4 * timeout,
  }, async () => {
    ok(registry);
    const { host } = registry;
    const targets: string[] = [];
    for (const { repository, tag } of images)
      targets.push(await rig.mount(`${host}/${repository}:${tag}`));
    for (const { door, state } of await mountsOf(rig))
      strictEqual(`${door} ${state}`, "full mounted");
    await registry.stop();
    registry = undefined;
    strictEqual(await rig.daemon.stop(), 0);
    await dropCaches();
    for (const [index, image] of images.entries()) {
      await expectSameTree(catalogue.treeOf(image), targets[index] ?? "");
    }
    await rig.restart();
    strictEqual((await mountsOf(rig)).length, images.length);
    await rig.umountAll();
    strictEqual((await mountsOf(rig)).length, 0);
    const { stdout } = await must("cat", ["/proc/mounts"]);
    ok(!stdout.includes("/dev/loop"), stdout);
  });
});
