// SPDX-License-Identifier: Apache-2.0
// Nydus images of every kind through erofsd-nydusd: bound as a snapshotter binds them, with the
// bootstrap unpacked on disk and the blobs in a registry or a directory.

import { strictEqual } from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { test } from "node:test";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { parseFixture, readFixture } from "../support/rafs-fixtures.ts";
import { bindImage, watched, withSite } from "./nydusd-steps.ts";
import { NYDUS_IMAGES, type NydusImage, nydusImage } from "./support/nydus-images.ts";
import { SLOWNESS, fullOnly } from "./support/settings.ts";

const timeout = 120_000 * SLOWNESS;
const ALONE = { supervised: false };

fullOnly("every kind of Nydus image in nydusd's place", () => {
  test(`${NYDUS_IMAGES.length} images, bound and mounted side by side`, { timeout }, () =>
    withSite(async (site) => {
      const daemon = await site.start(ALONE);
      await watched([daemon], async () => {
        const mounted: { target: string; image: NydusImage }[] = [];
        for (const [at, image] of NYDUS_IMAGES.entries()) {
          const id = String(100 + at);
          await bindImage(daemon, site, { id, name: image.name });
          mounted.push({ image, target: await site.mount(fsidOf(id)) });
        }
        for (const { target, image } of mounted) {
          await site.expectTree(target, image.expectation);
          await site.umount(target);
        }
        strictEqual(await daemon.end("SIGTERM"), 0);
      });
    }),
  );

  test("two images of one domain cache the blob they share once", { timeout }, () =>
    withSite(async (site) => {
      const daemon = await site.start(ALONE);
      await watched([daemon], async () => {
        const targets = [];
        for (const [id, name] of [
          ["3", "nydus"],
          ["4", "nydus-v2-dict"],
        ] as const) {
          await bindImage(daemon, site, { id, name, domain: "shared" });
          const target = await site.mount(fsidOf(id), "shared");
          await site.expectTree(target, nydusImage(name).expectation);
          targets.push(target);
        }
        // The kernel gives a new file its name when it is closed.
        for (const target of targets) await site.umount(target);
        strictEqual(await daemon.end("SIGTERM"), 0);
        const cache = join(site.root, "cache/cache");
        const files = (await readdir(cache, { recursive: true })).map((path) => basename(path));
        for (const { id } of parseFixture(readFixture("nydus-v2-dict").bootstrap).blobs) {
          strictEqual(files.filter((name) => name === `D${id}`).length, 1);
        }
      });
    }),
  );
});
