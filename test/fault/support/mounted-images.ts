// SPDX-License-Identifier: Apache-2.0
// What readers compare while everything goes wrong: images with a tree, and a Nydus one, whose
// bytes have digests.

import { createWriteStream } from "node:fs";
import { mkdir, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createCipheriv } from "node:crypto";
import {
  NYDUS_BLOB_ANNOTATION,
  NYDUS_BLOB_TYPE,
  NYDUS_BOOTSTRAP_ANNOTATION,
  NYDUS_FS_VERSION_ANNOTATION,
} from "../../../src/image/oci/media-types.ts";
import type { Site } from "../../host/support/site.ts";
import { writeNoise } from "../../kernel/images/trees.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { pushImage } from "../../support/push.ts";
import { writeRafsImage } from "../../support/rafs-image.ts";
import type { Way } from "../../support/way.ts";
import type { Mounted } from "./readers.ts";

const MIB = 1 << 20;
const CHUNK_BYTES = 256 << 10;
const FILES = 12;

/** Images of one tree, each a stream of its own, all mounted. */
export async function mountTrees(
  site: Site,
  { images, mib }: { images: number; mib: number },
): Promise<Mounted[]> {
  const tree = join(site.home, "tree");
  await mkdir(tree);
  for (let at = 0; at < FILES; at += 1) {
    const size = Math.floor((mib * MIB) / FILES) + at * 1000;
    await writeNoise(join(tree, `file-${at}`), size, `fault ${at}`);
  }
  const mounted: Mounted[] = [];
  for (let at = 0; at < images; at += 1) {
    const image = join(site.home, "image.erofs");
    const id = String(at).padStart(12, "0");
    await mkfsErofs(image, tree, [`-U00000000-0000-4000-8000-${id}`]);
    mounted.push({ tree, mounted: await site.mount(await site.pushRaw(image, `v${at}`)) });
    await rm(image);
  }
  return mounted;
}

/**
 * A Nydus image without files: its blob is read as the kernel's own file of it, which is asked about
 * in the same way. It is reached by `way`.
 */
export async function mountDigested(site: Site, way: Way, mib: number): Promise<Mounted> {
  const [made, tree, links] = [
    join(site.home, "nydus"),
    join(site.home, "nydus-tree"),
    join(site.home, "nydus-links"),
  ];
  for (const directory of [made, tree, links]) await mkdir(directory);
  await pipeline(Readable.from(chunks(mib)), createWriteStream(join(tree, "blob")));
  const image = await writeRafsImage(made, chunks(mib), CHUNK_BYTES);
  await pushImage({ host: site.registryHost, repository: "nydus" }, "v1", [
    {
      body: { path: image.blobPath },
      mediaType: NYDUS_BLOB_TYPE,
      annotations: { [NYDUS_BLOB_ANNOTATION]: "true" },
    },
    {
      body: { path: image.bootstrapLayerPath },
      mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      annotations: { [NYDUS_BOOTSTRAP_ANNOTATION]: "true", [NYDUS_FS_VERSION_ANNOTATION]: "6" },
    },
  ]);
  await rm(made, { recursive: true });
  await site.mount(`${way.host}/nydus:v1`);
  const file = (await site.cacheFiles()).find((path) => path.endsWith(`-${image.sizeBytes}`));
  if (file === undefined) throw new Error("the blob has no cache file");
  await symlink(file, join(links, "blob"));
  return { tree, mounted: links };
}

/** Noise, a chunk at a time, the same each time. */
function* chunks(mib: number): Generator<Buffer, void> {
  const noise = createCipheriv("aes-128-ctr", "erofsd fault key", Buffer.alloc(16));
  for (let left = mib * MIB; left > 0; left -= CHUNK_BYTES) {
    yield noise.update(Buffer.alloc(CHUNK_BYTES));
  }
}
