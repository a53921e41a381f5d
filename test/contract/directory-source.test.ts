// SPDX-License-Identifier: Apache-2.0
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/platform/clock.ts";
import { createDirectorySource } from "../../src/source/directory.ts";
import { digestOf } from "../support/oci-image.ts";
import { type MakeSource, runSourceContract } from "./source.ts";

const make: MakeSource = async (image) => {
  const folder = await mkdtemp(join(tmpdir(), "erofsd-directory-"));
  const originOf = (name: string) => ({
    kind: "directory" as const,
    host: "directory",
    repository: join(folder, name),
  });
  await mkdir(join(folder, "full"));
  for (const { bytes } of image.layers) {
    await writeFile(join(folder, "full", digestOf(bytes).slice("sha256:".length)), bytes);
  }
  return {
    source: createDirectorySource({ clock: systemClock }),
    origin: originOf("full"),
    emptyOrigin: originOf("empty"),
    dispose: () => rm(folder, { recursive: true, force: true }),
  };
};

runSourceContract("a directory of blobs", make, { manifests: false });
