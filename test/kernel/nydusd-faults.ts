// SPDX-License-Identifier: Apache-2.0
// Registries behind erofsd-nydusd that miss a blob, give other bytes, or refuse a password:
// readers get the right bytes or EIO, other images read on, and what is mended is read again.

import { match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { parseFixture, readFixture } from "../support/rafs-fixtures.ts";
import type { Nydusd } from "./nydusd-process.ts";
import { Site } from "./nydusd-site.ts";
import { bindImage } from "./nydusd-steps.ts";
import { type FilesRead, nydusImage, readFiles } from "./support/nydus-images.ts";
import { SLOWNESS, fullOnly } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;
const NEIGHBOUR = nydusImage("lz4-sha256");
/** What failed is not tried again for a second. */
const TRIES = 20;

fullOnly("a registry behind nydusd's place that is not right", () => {
  let site: Site;
  let daemon: Nydusd;
  let neighbour: string;
  before(async () => {
    site = await Site.make();
    daemon = await site.start({ supervised: false, isImpatient: true });
    await bindImage(daemon, site, { id: "1", name: NEIGHBOUR.name });
    neighbour = await site.mount(fsidOf("1"));
  });
  beforeEach(() => {
    site.registry.missing.clear();
    site.registry.damaged.clear();
    site.registry.login = undefined;
  });
  after(async () => {
    await site.umountAll();
    await daemon.end("SIGTERM");
    await site.stop();
  });

  const neighbourReads = async (): Promise<void> => {
    const { failed } = await readFiles(neighbour, NEIGHBOUR.expectation);
    strictEqual(failed.length, 0, failed.join(" "));
  };
  const untilRead = async (target: string): Promise<void> => {
    let last: FilesRead | undefined;
    for (let left = TRIES; left > 0; left -= 1) {
      last = await readFiles(target, "two-layers");
      if (last.failed.length === 0) break;
      await sleep(300);
    }
    strictEqual(last?.failed.join(" "), "", daemon.output);
    await site.expectTree(target, "two-layers");
  };

  test("a blob that is missing: EIO, and right once it is pushed", { timeout }, async () => {
    const [blob] = parseFixture(readFixture("nydus").bootstrap).blobs;
    site.registry.missing.add(blob?.id ?? "");
    await bindImage(daemon, site, { id: "2", name: "nydus" });
    const target = await site.mount(fsidOf("2"));
    const { right, failed } = await readFiles(target, "two-layers");
    ok(right.length > 0 && failed.length > 0, `${right.length} right, ${failed.length} failed`);
    match(daemon.output, /has no blob sha256:/);
    await neighbourReads();
    site.registry.missing.clear();
    await untilRead(target);
    await site.umount(target);
  });

  test("a missing blob whose chunk infos are in it: the bind says so", { timeout }, async () => {
    const blob = await site.blobOf("none-sha256");
    site.registry.missing.add(blob);
    await site.snapshot("3", "none-sha256");
    const refused = await daemon.ask("PUT", "/api/v2/blobs", site.body("3"));
    strictEqual(refused.status, 500);
    match(JSON.stringify(refused.body), /CreateBlobObject.*has no blob sha256:/);
    notStrictEqual((await site.tryMount(fsidOf("3"), "/mnt")).status, 0);
    site.registry.missing.clear();
    strictEqual((await daemon.ask("PUT", "/api/v2/blobs", site.body("3"))).status, 204);
    const target = await site.mount(fsidOf("3"));
    await site.expectTree(target);
    await site.umount(target);
    await neighbourReads();
  });

  for (const [at, name] of ["nydus-lz4", "nydus-batch", "nydus-zran"].entries()) {
    test(`${name} with bits turned: EIO for what needs it`, { timeout }, async () => {
      const id = String(10 + at);
      const image = readFixture(name);
      const [blob] = parseFixture(image.bootstrap).blobs;
      const { id: digits = "", chunkInfo, features } = blob ?? {};
      // In the data, not in the tables behind it; in a tar also where no file lies.
      const end = features?.separate === false ? chunkInfo?.offset : image.blob(digits).length;
      const offsets = [0.3, 0.5, 0.7].map((share) => Math.floor((end ?? 0) * share));
      site.registry.damaged.set(digits, offsets);
      await bindImage(daemon, site, { id, name });
      const target = await site.mount(fsidOf(id));
      const { right, failed } = await readFiles(target, "two-layers");
      ok(right.length > 0 && failed.length > 0, `${right.length} right, ${failed.length} failed`);
      match(daemon.output, /digest|cannot be decoded|not .* data/);
      await neighbourReads();
      site.registry.damaged.clear();
      await untilRead(target);
      await site.umount(target);
    });
  }

  test("a wrong password: EIO, until it is renewed", { timeout }, async () => {
    site.registry.login = "alice:two";
    await bindImage(daemon, site, { id: "20", name: "nydus-none" });
    const target = await site.mount(fsidOf("20"));
    const { failed } = await readFiles(target, "two-layers");
    ok(failed.length > 0);
    match(daemon.output, /refuses access to big/);
    const body = { registry_auth: Buffer.from("alice:two").toString("base64") };
    strictEqual((await daemon.ask("PUT", "/api/v1/config?id=%2F20", body)).status, 204);
    await untilRead(target);
    await site.umount(target);
  });
});
