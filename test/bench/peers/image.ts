// SPDX-License-Identifier: Apache-2.0
// The image that peers are compared by: a large file and a Python to start, as nydusify converts
// them. Made once, kept as an OCI image layout that the peers' slow registry serves.

import { execFile } from "node:child_process";
import { createReadStream, createWriteStream } from "node:fs";
import { copyFile, mkdir, mkdtemp, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { createGzip } from "node:zlib";
import { createHash } from "node:crypto";
import { request } from "undici";
import * as z from "zod";
import { KIB, MIB } from "../../../src/units.ts";
import { type RunningRegistry, startDockerRegistry } from "../../support/docker-registry.ts";
import {
  OCI_CONFIG,
  OCI_MANIFEST,
  describe,
  jsonBytes,
  writeLayout,
} from "../../support/oci-image.ts";
import { pushBlob, pushManifest } from "../../support/push.ts";
import { makeBenchRoot } from "../bench-root.ts";
import { contentPieces } from "../host/content.ts";

const exec = promisify(execFile);
/** Changes whenever what is made changes. */
const VERSION = 2;
export const BIG_FILE = "big.bin";
export const BIG_MIB = 112;
/** One chunk, which a link of 20 MB/s carries in 8 ms; one of the large file takes it 33. */
export const SMALL_FILE = "small.bin";
const SMALL_BYTES = 256 * KIB;
const LAYER = "application/vnd.oci.image.layer.v1.tar+gzip";
const REPOSITORY = "bench";
export const TAG = "nydus";

const manifestSchema = z.object({
  config: z.object({ digest: z.string() }),
  layers: z.array(z.object({ digest: z.string() })),
});

/** Makes the layout under `home` if it is not there; resolves with its directory. */
export async function preparePeerImage(home: string, peers: string): Promise<string> {
  const layout = join(home, `peers-${VERSION}`);
  if ((await stat(layout).catch(() => undefined)) !== undefined) return layout;
  await mkdir(home, { recursive: true });
  const scratch = await mkdtemp(join(home, "scratch-"));
  const storage = join(scratch, "storage");
  const registry = await startDockerRegistry({ storage });
  try {
    await pushPlain(registry, scratch);
    const PATH = `${peers}:${process.env["PATH"] ?? ""}`;
    const of = (tag: string): string => `${registry.host}/${REPOSITORY}:${tag}`;
    const convert = ["convert", "--source", of("plain"), "--target", of(TAG)];
    const insecure = ["--source-insecure", "--target-insecure", "--plain-http"];
    const work = ["--work-dir", join(scratch, "work"), "--oci"];
    await exec("nydusify", ["--log-level", "error", ...convert, ...insecure, ...work], {
      env: { ...process.env, PATH },
    });
    await takeLayout(registry, join(scratch, "layout"));
    await rename(join(scratch, "layout"), layout);
  } finally {
    await registry.stop();
    await rm(scratch, { recursive: true, force: true });
  }
  return layout;
}

/** What is in the image: the same from run to run, but for this machine's Python. */
export async function writeBenchTree(root: string): Promise<void> {
  await makeBenchRoot(root);
  const write = (name: string, bytes: number, seed: number): Promise<void> =>
    pipeline(Readable.from(contentPieces(bytes, MIB, seed)), createWriteStream(join(root, name)));
  await write(BIG_FILE, BIG_MIB * MIB, 11);
  await write(SMALL_FILE, SMALL_BYTES, 12);
}

/** An ordinary OCI image of one layer. */
async function pushPlain(registry: RunningRegistry, scratch: string): Promise<void> {
  const root = join(scratch, "root");
  await writeBenchTree(root);
  const [tar, layer] = [join(scratch, "layer.tar"), join(scratch, "layer.tar.gz")];
  await exec("tar", ["-C", root, "--sort=name", "--owner=0", "--group=0", "-cf", tar, "."]);
  const hash = createHash("sha256");
  await pipeline(createReadStream(tar), hash);
  await pipeline(createReadStream(tar), createGzip({ level: 1 }), createWriteStream(layer));
  const target = { host: registry.host, repository: REPOSITORY };
  const pushed = await pushBlob(target, { path: layer });
  const rootfs = { type: "layers", diff_ids: [`sha256:${hash.digest("hex")}`] };
  const config = jsonBytes({ architecture: "amd64", os: "linux", config: {}, rootfs });
  await pushBlob(target, config);
  const bytes = jsonBytes({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: describe({ bytes: config, mediaType: OCI_CONFIG }),
    layers: [{ mediaType: LAYER, ...pushed }],
  });
  await pushManifest(target, "plain", { bytes, mediaType: OCI_MANIFEST });
}

/** What the registry holds of the converted image, as an image layout. */
async function takeLayout(registry: RunningRegistry, layout: string): Promise<void> {
  const url = `http://${registry.host}/v2/${REPOSITORY}/manifests/${TAG}`;
  const { body } = await request(url, { headers: { accept: OCI_MANIFEST } });
  const bytes = new Uint8Array(await body.arrayBuffer());
  const manifest = { bytes, mediaType: OCI_MANIFEST };
  const annotations = { "org.opencontainers.image.ref.name": TAG };
  await writeLayout(layout, {
    blobs: [manifest],
    manifests: [{ ...describe(manifest), annotations }],
  });
  const { config, layers } = manifestSchema.parse(JSON.parse(Buffer.from(bytes).toString()));
  for (const { digest } of [config, ...layers]) {
    const hex = digest.slice("sha256:".length);
    const stored = `docker/registry/v2/blobs/sha256/${hex.slice(0, 2)}/${hex}/data`;
    await copyFile(join(registry.storage, stored), join(layout, "blobs/sha256", hex));
  }
}
