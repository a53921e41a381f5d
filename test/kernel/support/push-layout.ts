// SPDX-License-Identifier: Apache-2.0
// Pushes tags of the fixtures' OCI layout to a registry, manifests and all they refer to.

import { readFile } from "node:fs/promises";
import * as z from "zod";
import { type PushTarget, pushBlob, pushManifest } from "../../support/push.ts";
import { FIXTURES } from "../../support/rafs-fixtures.ts";

const descriptor = z.object({
  digest: z.string(),
  mediaType: z.string(),
  annotations: z.record(z.string(), z.string()).optional(),
});
const descriptors = z.array(descriptor).optional();
const document = z.object({
  config: descriptor.optional(),
  layers: descriptors,
  manifests: descriptors,
});
type Descriptor = z.infer<typeof descriptor>;

const LAYOUT = `${FIXTURES}layout/`;
const NAME = "org.opencontainers.image.ref.name";

/** Blobs that several of the tags have are pushed once. */
export async function pushTags(target: PushTarget, tags: readonly string[]): Promise<void> {
  const index = document.parse(JSON.parse(await readFile(`${LAYOUT}index.json`, "utf8")));
  const pushed = new Set<string>();
  for (const tag of tags) {
    const named = index.manifests?.find(({ annotations }) => annotations?.[NAME] === tag);
    if (named === undefined) throw new Error(`the layout has no tag ${tag}`);
    await push(target, named, { reference: tag, pushed });
  }
}

async function push(
  target: PushTarget,
  { digest, mediaType }: Descriptor,
  { reference, pushed }: { reference: string; pushed: Set<string> },
): Promise<void> {
  const bytes = await readFile(pathOf(digest));
  const { config, layers = [], manifests = [] } = document.parse(JSON.parse(bytes.toString()));
  for (const blob of [...(config === undefined ? [] : [config]), ...layers]) {
    if (!pushed.has(blob.digest)) await pushBlob(target, { path: pathOf(blob.digest) });
    pushed.add(blob.digest);
  }
  for (const each of manifests) await push(target, each, { reference: each.digest, pushed });
  await pushManifest(target, reference, { bytes, mediaType });
}

function pathOf(digest: string): string {
  return `${LAYOUT}blobs/sha256/${digest.slice("sha256:".length)}`;
}
