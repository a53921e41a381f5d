// SPDX-License-Identifier: Apache-2.0
// What Nydus images share, and what they must not be able to do to each other: a blob is fetched
// and cached once, and an image that says something else of it than a trusted one is refused.

import { deepStrictEqual, match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { mkdtemp, readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import { CHUNK_ROW_BYTES } from "../../src/image/rafs/bootstrap.ts";
import { FIXTURES, parseFixture, readFixture } from "../support/rafs-fixtures.ts";
import { expectTree, nydusImage } from "./support/nydus-images.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { dropCaches } from "./support/run.ts";
import { SLOWNESS, beyondSmoke, fullOnly, fullTest } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;

/** The image's bootstrap with a bit of one chunk's digest turned, as a reference. */
async function hostile(name: string): Promise<string> {
  const bootstrap = Uint8Array.from(readFixture(name).bootstrap);
  const at = parseFixture(bootstrap).bootstrap.chunkTable.offset + 3 * CHUNK_ROW_BYTES + 31;
  bootstrap[at] = (bootstrap[at] ?? 0) ^ 1;
  const path = join(await mkdtemp(join(tmpdir(), "hostile-")), "bootstrap");
  await writeFile(path, bootstrap);
  return `rafs:${path}?blobs=${FIXTURES}layout/blobs/sha256`;
}

beyondSmoke("Nydus images that share a blob", () => {
  let rig: Rig;
  before(async () => {
    rig = await Rig.start();
  });
  after(() => rig.stop());

  test("cache it once, also when both are mounted", { timeout }, async () => {
    const [one, two] = [nydusImage("nydus"), nydusImage("nydus-v2-dict")];
    const ofOne = parseFixture(readFixture(one.name).bootstrap).blobs;
    const ofTwo = parseFixture(readFixture(two.name).bootstrap).blobs;
    const shared = ofOne.filter(({ id }) => ofTwo.some((other) => other.id === id));
    ok(shared.length > 0);
    const first = await rig.mount(one.reference);
    await expectTree(first, one.expectation);
    await rig.untilQuiet();
    const cost = await rig.costOf(async () => {
      const second = await rig.mount(two.reference);
      await expectTree(second, two.expectation);
      const { objects } = await rig.daemon.status();
      for (const { id } of shared) {
        strictEqual(objects.filter(({ cookieKey }) => cookieKey === id).length, 1);
      }
      await rig.umount(second);
    });
    const own = ofTwo.filter(({ id }) => !shared.some((other) => other.id === id));
    const bytes = own.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const bootstrapBytes = readFixture(two.name).bootstrap.length;
    ok(cost.writtenBytes <= bytes + bootstrapBytes, `${cost.writtenBytes} bytes written`);
    await rig.umount(first);
    await rig.untilIdle();
    // The kernel gives a new file its name when it is closed.
    const files = (await readdir(join(rig.cacheDir, "cache"), { recursive: true })).map((path) =>
      basename(path),
    );
    for (const { id } of [...ofOne, ...ofTwo]) {
      strictEqual(files.filter((name) => name === `D${id}`).length, 1, `files of blob ${id}`);
    }
  });

  fullTest(
    "a hostile bootstrap is refused with its reason, and its neighbour reads right",
    {
      timeout,
    },
    async () => {
      const { reference, expectation } = nydusImage("nydus-lz4");
      const honest = await rig.mount(reference);
      const forged = await hostile("nydus-lz4");
      const target = await rig.directory();
      notStrictEqual((await rig.tryBareMount(forged, target)).status, 0);
      match(await rig.complaint("image_invalid"), /contradicts/);
      const ended = await rig.tryMount(forged, target);
      strictEqual(ended.status, 5, ended.stderr);
      match(ended.stderr, /contradicts/);
      await expectTree(honest, expectation);
      await dropCaches();
      await expectTree(honest, expectation);
      await rig.umount(honest);
      await rig.untilIdle();
    },
  );
});

fullOnly('integrity = "require"', () => {
  fullTest("mounts Nydus images and refuses raw layers by name", { timeout }, async () => {
    const registry = await startRegistry();
    const rig = await Rig.beside(registry, '[engine]\nintegrity = "require"');
    try {
      const { reference, expectation } = nydusImage("nydus-batch");
      const target = await rig.mount(reference);
      await expectTree(target, expectation);
      for (const name of ["plain", "device-named"]) {
        const { repository, tag } = catalogue.get(name);
        const raw = `${registry.host}/${repository}:${tag}`;
        const ended = await rig.tryMount(raw, await rig.directory());
        strictEqual(ended.status, 5, ended.stderr);
        match(ended.stderr, /integrity = "require"/);
        notStrictEqual((await rig.tryBareMount(raw, await rig.directory())).status, 0);
        match(await rig.complaint("image_unsupported"), /no digests per chunk/);
      }
      deepStrictEqual((await rig.daemon.status()).cache.writtenBytes > 0, true);
      await rig.umount(target);
    } finally {
      await rig.stop();
      await registry.stop();
    }
  });
});
