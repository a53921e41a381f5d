// SPDX-License-Identifier: Apache-2.0
// Space comes back: what is cached of an image goes when a snapshotter asks for it after the
// unmount, with the whole domain where that was the image's own; what is mounted stays.

import { match, strictEqual } from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { parseFixture, readFixture } from "../support/rafs-fixtures.ts";
import { bindImage, watched, withSite } from "./nydusd-steps.ts";
import { dropCaches } from "./support/run.ts";
import { SLOWNESS, beyondSmoke } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;

beyondSmoke("culling in nydusd's place", () => {
  test("frees an image's volume after its unmount, and harms nothing before", { timeout }, () =>
    withSite(async (site) => {
      const daemon = await site.start({ supervised: false });
      await watched([daemon], async () => {
        const fsid = fsidOf("5");
        const other = fsidOf("6");
        for (const id of ["5", "6"]) await bindImage(daemon, site, { id, name: "nydus" });
        const target = await site.mount(fsid);
        const neighbour = await site.mount(other);
        for (const each of [target, neighbour]) await site.expectTree(each, "two-layers");
        const [blob] = parseFixture(readFixture("nydus").bootstrap).blobs;
        for (const key of [fsid, blob?.id ?? ""]) {
          const answered = await daemon.ask("DELETE", `/api/v2/blobs?blob_id=${key}`);
          strictEqual(answered.status, 500);
          match(
            JSON.stringify(answered.body),
            /DeleteBlobFile\(DaemonAbnormal\(Other\(\\"failed to start service, \\"\)\)\)/,
          );
        }
        await dropCaches();
        await site.expectTree(target, "two-layers");
        const gone = await daemon.ask("DELETE", `/api/v2/blobs?domain_id=${fsid}`);
        strictEqual(gone.status, 204);
        // As a snapshotter does it: at once.
        await site.umount(target);
        const culled = await daemon.ask("DELETE", `/api/v2/blobs?blob_id=${fsid}`);
        strictEqual(culled.status, 204, JSON.stringify(culled.body));
        const volumes = join(site.root, "cache/cache");
        strictEqual(existsSync(join(volumes, `Ierofs,${fsid}`)), false, "the volume is left");
        strictEqual((await readdir(join(site.root, "cache/graveyard"))).length, 0);
        strictEqual(existsSync(join(volumes, `Ierofs,${other}`)), true);
        await dropCaches();
        await site.expectTree(neighbour, "two-layers");
        // The name is as new.
        await bindImage(daemon, site, { id: "5", name: "nydus-lz4" });
        const again = await site.mount(fsid);
        await site.expectTree(again, "two-layers");
        for (const each of [again, neighbour]) await site.umount(each);
        strictEqual(await daemon.end("SIGTERM"), 0);
      });
    }),
  );
});
