// SPDX-License-Identifier: Apache-2.0
// What a name stands for: tags that move, names too long for the kernel, names nobody knows.

import { match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { request } from "undici";
import { OCI_MANIFEST } from "../support/oci-image.ts";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { pushManifest } from "../support/push.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { expectSameTree, run } from "./support/run.ts";
import { SLOWNESS, TIER, beyondSmoke, fullTest } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;
const isFull = TIER === "full";
const treeOf = (tag: string): string => catalogue.treeOf(catalogue.get(tag));

beyondSmoke("names", () => {
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

  /** Makes `tag` of a repository mean what `from` means there. */
  async function moveTag(repository: string, from: string, tag: string): Promise<void> {
    const url = `http://${registry.host}/v2/${repository}/manifests/${from}`;
    const { body } = await request(url, { headers: { accept: OCI_MANIFEST } });
    const bytes = new Uint8Array(await body.arrayBuffer());
    await pushManifest({ host: registry.host, repository }, tag, {
      bytes,
      mediaType: OCI_MANIFEST,
    });
  }

  test("a tag that moves between images of one size never gives a byte of the other", {
    timeout: 3 * timeout,
  }, async () => {
    const repository = "test/equal";
    const fsid = `${registry.host}/${repository}:moving`;
    const check = async (tag: string): Promise<void> => {
      const target = await rig.bareMount(fsid);
      await expectSameTree(treeOf(tag), target);
      await rig.umount(target);
      await rig.untilIdle();
    };
    await moveTag(repository, "equal-a", "moving");
    await check("equal-a");
    await moveTag(repository, "equal-b", "moving");
    await check("equal-b");
    await moveTag(repository, "equal-a", "moving");
    // Killed: what is on disk is all that the next daemon knows.
    const mounted = await rig.bareMount(fsid);
    await expectSameTree(treeOf("equal-a"), mounted);
    strictEqual(await rig.daemon.stop("SIGKILL"), "SIGKILL");
    await rig.umount(mounted);
    await moveTag(repository, "equal-b", "moving");
    await rig.restart();
    await check("equal-b");
    // With the registry away the name stands for what it stood for last.
    await moveTag(repository, "equal-a", "moving");
    const port = Number(registry.host.split(":")[1]);
    await registry.stop();
    await check("equal-b");
    registry = await startRegistry(port);
    await check("equal-a");
  });

  fullTest(
    "a tag that moves while its image is mounted changes nothing until it is unmounted",
    {
      timeout,
    },
    async () => {
      const repository = "test/equal";
      const fsid = `${registry.host}/${repository}:held`;
      await moveTag(repository, "equal-a", "held");
      const target = await rig.bareMount(fsid);
      await moveTag(repository, "equal-b", "held");
      await expectSameTree(treeOf("equal-a"), target);
      await rig.umount(target);
      await rig.untilIdle();
      const again = await rig.bareMount(fsid);
      await expectSameTree(treeOf("equal-b"), again);
      await rig.umount(again);
    },
  );

  fullTest(
    "a reference of 189 bytes mounts as it is, a longer one only with `erofsd mount`",
    {
      timeout,
    },
    async () => {
      const prefix = `${registry.host}/test/plain:`;
      // A tag has 128 bytes at most, so a reference this long needs its repository's digest too.
      const tree = catalogue.treeOf(catalogue.get("plain"));
      const digest = await digestOfTag("test/plain", "v1");
      const longest = `${registry.host}/test/plain:${"t".repeat(189 - prefix.length - 1 - digest.length)}@${digest}`;
      strictEqual(longest.length, 189);
      await moveTag("test/plain", "v1", "t".repeat(189 - prefix.length - 1 - digest.length));
      const bare = await rig.bareMount(longest);
      await expectSameTree(tree, bare);
      await rig.umount(bare);
      await rig.untilIdle();
      const long = longest.replace("@", "t@");
      strictEqual(long.length, 190);
      await moveTag("test/plain", "v1", "t".repeat(190 - prefix.length - 1 - digest.length));
      const target = await rig.mount(long);
      await expectSameTree(tree, target);
      await rig.umount(target);
      const refused = await rig.tryBareMount(long, await rig.directory());
      notStrictEqual(refused.status, 0, "the kernel cuts this key; another image may answer to it");
      match(await rig.complaint("key_refused"), /190 bytes .* that the kernel keeps apart/);
    },
  );

  async function digestOfTag(repository: string, tag: string): Promise<string> {
    const url = `http://${registry.host}/v2/${repository}/manifests/${tag}`;
    const { headers, body } = await request(url, {
      method: "HEAD",
      headers: { accept: OCI_MANIFEST },
    });
    await body.dump();
    return String(headers["docker-content-digest"]);
  }

  fullTest(
    "a mount in another domain is refused, and the log says which domain is served",
    {
      timeout,
    },
    async () => {
      const target = await rig.directory();
      const ended = await rig.tryBareMount(`${registry.host}/test/plain:v1`, target, "other");
      notStrictEqual(ended.status, 0);
      const line = await rig.complaint("key_refused");
      match(line, /volume "erofs,other"; this daemon serves domain_id=erofsd alone/);
    },
  );

  fullTest(
    "an unknown reference fails its mount, and the log names the host and the repository",
    {
      timeout,
    },
    async () => {
      const target = await rig.directory();
      const reference = `${registry.host}/test/nothing:v1`;
      notStrictEqual((await rig.tryBareMount(reference, target)).status, 0);
      const line = await rig.complaint("manifest_not_found");
      ok(line.includes(registry.host) && line.includes("test/nothing"), line);
      if (!isFull) return;
      const told = await rig.tryMount(reference, target);
      strictEqual(told.status, 4, told.stderr);
      ok(told.stderr.includes(registry.host) && told.stderr.includes("test/nothing"), told.stderr);
    },
  );

  fullTest(
    "a registry that nobody runs fails its mount with the host's name",
    {
      timeout,
    },
    async () => {
      const target = await rig.directory();
      notStrictEqual((await rig.tryBareMount("127.0.0.1:1/test/plain:v1", target)).status, 0);
      const line = await rig.complaint("registry_unreachable");
      match(line, /127\.0\.0\.1:1 cannot be reached/);
      const told = await rig.tryMount("127.0.0.1:1/test/plain:v1", target);
      strictEqual(told.status, 4, told.stderr);
      match(told.stderr, /127\.0\.0\.1:1 cannot be reached/);
      strictEqual((await run("mountpoint", ["-q", target])).status, 32, "nothing is mounted");
    },
  );
});
