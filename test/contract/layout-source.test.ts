// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/platform/clock.ts";
import { createLayoutSource } from "../../src/source/layout.ts";
import { writeLayout } from "../support/oci-image.ts";
import { runSourceContract } from "./source.ts";

runSourceContract("an image layout", async (image) => {
  const folder = await mkdtemp(join(tmpdir(), "erofsd-layout-"));
  const annotations = { "org.opencontainers.image.ref.name": "v1" };
  const originOf = (name: string) => ({
    kind: "layout" as const,
    host: "oci",
    repository: join(folder, name),
  });
  await writeLayout(join(folder, "full"), {
    blobs: [image.manifest, image.config, ...image.layers],
    manifests: [{ ...image.descriptor, annotations }],
  });
  await writeLayout(join(folder, "empty"), { blobs: [], manifests: [] });
  return {
    source: createLayoutSource({ clock: systemClock }),
    origin: originOf("full"),
    emptyOrigin: originOf("empty"),
    dispose: () => rm(folder, { recursive: true, force: true }),
  };
});
