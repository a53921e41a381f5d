// SPDX-License-Identifier: Apache-2.0
// The images that the host's workloads read, made once and kept as a registry's storage.

import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import * as z from "zod";
import { ErofsReader, extentsOf } from "../../../src/image/erofs/inode.ts";
import { filesUnder } from "../../../src/image/erofs/tree.ts";
import {
  EROFS_LAYER_V1,
  NYDUS_BLOB_ANNOTATION,
  NYDUS_BLOB_TYPE,
  NYDUS_BOOTSTRAP_ANNOTATION,
  NYDUS_FS_VERSION_ANNOTATION,
} from "../../../src/image/oci/media-types.ts";
import { BLOCK_BYTES, KIB, MIB, alignDown } from "../../../src/units.ts";
import { startDockerRegistry } from "../../support/docker-registry.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { pushImage } from "../../support/push.ts";
import { writeRafsImage } from "../../support/rafs-image.ts";
import { seededRandom } from "../../support/seeded-random.ts";
import { contentPieces } from "./content.ts";
import { startTrace } from "./start-trace.ts";

/** Changes whenever what is made changes. */
const VERSION = 4;

const extent = z.object({ offset: z.number(), length: z.number() });
const imageSchema = z.object({
  /** `<repository>:<tag>`, to go behind a registry's address. */
  name: z.string(),
  /** The cookie key of the device that is read; none: the image's one layer itself. */
  device: z.string().optional(),
  /** Of the stream that is read. */
  sizeBytes: z.number(),
  chunkBytes: z.number().optional(),
  /** The blob with the stream's stored bytes, and how many of it they are. */
  blob: z.string(),
  storedBytes: z.number(),
  /** Of each file in it: the block with its inode, then its bytes. */
  files: z.array(z.array(extent)).optional(),
});
const catalogueSchema = z.object({
  version: z.number(),
  images: z.record(z.string(), imageSchema),
});

export type BenchImage = z.infer<typeof imageSchema>;
export { imageSchema };

export interface HostImages {
  readonly storage: string;
  readonly images: Readonly<Record<ImageName, BenchImage>>;
}

/** As large as what the recorded program was started from. */
const { sizeBytes: START_BYTES } = startTrace();

type Host = { readonly host: string; readonly scratch: string };
type ImageName = keyof typeof MAKERS;

const MAKERS = {
  "raw-64": (to: Host) => rawImage(to, "raw-64", [64 * MIB]),
  "raw-small": (to: Host) => rawImage(to, "raw-small", smallSizes()),
  "rafs-64": (to: Host) => rafsImage(to, "rafs-64", { bytes: 64 * MIB, chunkBytes: MIB }),
  "rafs-1024": (to: Host) => rafsImage(to, "rafs-1024", { bytes: 1024 * MIB, chunkBytes: MIB }),
  "rafs-256-fine": (to: Host) =>
    rafsImage(to, "rafs-256-fine", { bytes: 256 * MIB, chunkBytes: 256 * KIB }),
  "raw-start": (to: Host) => rawImage(to, "raw-start", [START_BYTES]),
  "rafs-start": (to: Host) => rafsImage(to, "rafs-start", { bytes: START_BYTES, chunkBytes: MIB }),
} as const;

function isImageName(name: string): name is ImageName {
  return Object.hasOwn(MAKERS, name);
}

/** Makes under `home` what is not there yet. */
export async function prepareImages(home: string): Promise<HostImages> {
  const storage = join(home, `host-${VERSION}`, "storage");
  const cataloguePath = join(dirname(storage), "images.json");
  const known = await readFile(cataloguePath, "utf8").catch(() => undefined);
  if (known !== undefined) return { storage, images: parse(known) };
  await rm(dirname(storage), { recursive: true, force: true });
  await mkdir(storage, { recursive: true });
  const scratch = await mkdtemp(join(dirname(storage), "scratch-"));
  const registry = await startDockerRegistry({ storage });
  const images: Record<string, BenchImage> = {};
  try {
    for (const name of Object.keys(MAKERS).filter(isImageName)) {
      images[name] = await MAKERS[name]({ host: registry.host, scratch });
    }
  } finally {
    await registry.stop();
    await rm(scratch, { recursive: true, force: true });
  }
  const text = JSON.stringify({ version: VERSION, images });
  await writeFile(`${cataloguePath}.partial`, text);
  await rename(`${cataloguePath}.partial`, cataloguePath);
  return { storage, images: parse(text) };
}

function parse(text: string): HostImages["images"] {
  const { images } = catalogueSchema.parse(JSON.parse(text));
  const of = (name: ImageName): BenchImage => {
    const image = images[name];
    if (image === undefined) throw new Error(`the benchmark's images lack ${name}`);
    return image;
  };
  return {
    "raw-64": of("raw-64"),
    "raw-small": of("raw-small"),
    "rafs-64": of("rafs-64"),
    "rafs-1024": of("rafs-1024"),
    "rafs-256-fine": of("rafs-256-fine"),
    "raw-start": of("raw-start"),
    "rafs-start": of("rafs-start"),
  };
}

/** 1,000 files of 1 to 64 KiB, small ones more often, as in a tree of sources. */
function smallSizes(): number[] {
  const random = seededRandom(7);
  return Array.from({ length: 1000 }, () => random.between(512, 2 ** random.between(10, 16)));
}

async function rawImage(
  { host, scratch }: Host,
  repository: string,
  sizes: readonly number[],
): Promise<BenchImage> {
  const tree = join(scratch, repository);
  for (const [index, size] of sizes.entries()) {
    const path = join(tree, `dir-${Math.floor(index / 50)}`, `file-${index}`);
    await mkdir(dirname(path), { recursive: true });
    await pipeline(Readable.from(contentPieces(size, MIB, index)), createWriteStream(path));
  }
  const path = join(scratch, `${repository}.erofs`);
  await mkfsErofs(path, tree);
  const layer = { body: { path }, mediaType: EROFS_LAYER_V1 };
  const { layers } = await pushImage({ host, repository }, "v1", [layer]);
  const [{ digest: blob, size: sizeBytes } = { digest: "", size: 0 }] = layers;
  const files = await filesOf(path, sizeBytes);
  return { name: `${repository}:v1`, sizeBytes, blob, storedBytes: sizeBytes, files };
}

async function rafsImage(
  { host, scratch }: Host,
  repository: string,
  { bytes, chunkBytes }: { readonly bytes: number; readonly chunkBytes: number },
): Promise<BenchImage> {
  const directory = join(scratch, repository);
  await mkdir(directory);
  const made = await writeRafsImage(directory, contentPieces(bytes, chunkBytes, bytes), chunkBytes);
  await pushImage({ host, repository }, "v1", [
    {
      body: { path: made.blobPath },
      mediaType: NYDUS_BLOB_TYPE,
      annotations: { [NYDUS_BLOB_ANNOTATION]: "true" },
    },
    {
      body: { path: made.bootstrapLayerPath },
      mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      annotations: { [NYDUS_BOOTSTRAP_ANNOTATION]: "true", [NYDUS_FS_VERSION_ANNOTATION]: "6" },
    },
  ]);
  await rm(directory, { recursive: true });
  return {
    name: `${repository}:v1`,
    device: made.blobId,
    sizeBytes: made.sizeBytes,
    chunkBytes,
    blob: `sha256:${made.blobId}`,
    storedBytes: made.dataBytes,
  };
}

async function filesOf(path: string, sizeBytes: number): Promise<BenchImage["files"]> {
  const file = await open(path);
  try {
    const readAt = async (offset: number, length: number): Promise<Uint8Array> => {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, offset);
      return buffer.subarray(0, bytesRead);
    };
    const head = Buffer.from(await readAt(0, BLOCK_BYTES));
    const metaBlock = head.readUInt32LE(1024 + 40);
    const reader = new ErofsReader({ readAt, sizeBytes, metaBlock, deviceBlocks: [], where: path });
    const files: z.infer<typeof extent>[][] = [];
    for await (const nid of filesUnder(reader, head.readUInt16LE(1024 + 14))) {
      const inodeAt = alignDown(metaBlock * BLOCK_BYTES + nid * 32, BLOCK_BYTES);
      const extents = [{ offset: inodeAt, length: BLOCK_BYTES }];
      for await (const { offset, length } of extentsOf(reader, nid))
        extents.push({ offset, length });
      files.push(extents);
    }
    return files;
  } finally {
    await file.close();
  }
}
