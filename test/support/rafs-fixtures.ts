// SPDX-License-Identifier: Apache-2.0
// The Nydus images in test/fixtures/rafs, as a daemon would come by their parts: the bootstrap,
// the `.blob.meta` files that lie beside it, and blobs by their digests.

import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import * as z from "zod";
import { type RafsBlob, parseBlobTable } from "../../src/image/rafs/blob-table.ts";
import {
  BOOTSTRAP_HEAD_BYTES,
  type RafsBootstrap,
  parseBootstrapHead,
} from "../../src/image/rafs/bootstrap.ts";
import { type BlobRows, ChunkTableReader } from "../../src/image/rafs/chunk-table.ts";
import { findPackageRoot } from "../../src/platform/package-root.ts";
import { type Extent, extentEnd } from "../../src/units.ts";

export const FIXTURES = fileURLToPath(new URL("test/fixtures/rafs/", findPackageRoot()));
const BOOTSTRAP_LAYER = "containerd.io/snapshot/nydus-bootstrap";
const TAR_BLOCK_BYTES = 512;

export interface FixtureImage {
  readonly name: string;
  readonly bootstrap: Uint8Array;
  /** `<id>.blob.meta` beside the bootstrap. */
  readonly blobMeta: ReadonlyMap<string, Uint8Array>;
  readonly blob: (id: string) => Uint8Array;
}

const LAYOUT_IMAGES = [
  "nydus",
  "nydus-lz4",
  "nydus-none",
  "nydus-batch",
  "nydus-zran",
  "nydus-multi",
  "nydus-prefetch",
  "nydus-v2-dict",
];
const DIRECTORY_IMAGES = ["none-sha256", "zstd-sha256", "lz4-sha256"];

export const FIXTURE_IMAGES: readonly string[] = [...LAYOUT_IMAGES, ...DIRECTORY_IMAGES];

export function readFixture(name: string): FixtureImage {
  return DIRECTORY_IMAGES.includes(name) ? readDirectory(name) : readLayout(name);
}

function readDirectory(name: string): FixtureImage {
  const path = `${FIXTURES}directory/${name}/`;
  const blobs = readdirSync(path).filter((file) => file !== "bootstrap");
  if (blobs.length !== 1) throw new Error(`${path} must have one blob`);
  return {
    name,
    bootstrap: readFileSync(`${path}bootstrap`),
    blobMeta: new Map(),
    blob: (id) => readFileSync(path + id),
  };
}

const descriptors = z.array(
  z.object({ digest: z.string(), annotations: z.record(z.string(), z.string()).optional() }),
);
const documents = z.object({ layers: descriptors.optional(), manifests: descriptors.optional() });

function readLayout(name: string): FixtureImage {
  const blob = (id: string): Uint8Array => readFileSync(`${FIXTURES}layout/blobs/sha256/${id}`);
  const parse = (bytes: Uint8Array): z.infer<typeof documents> =>
    documents.parse(JSON.parse(Buffer.from(bytes).toString()));
  const index = parse(readFileSync(`${FIXTURES}layout/index.json`));
  const named = index.manifests?.find(
    ({ annotations }) => annotations?.["org.opencontainers.image.ref.name"] === name,
  );
  const pending = named === undefined ? [] : [named];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { layers = [], manifests = [] } = parse(blob(hexOf(next.digest)));
    pending.push(...manifests);
    const layer = layers.find(({ annotations }) => annotations?.[BOOTSTRAP_LAYER] === "true");
    if (layer !== undefined) return { name, blob, ...readLayer(blob(hexOf(layer.digest))) };
  }
  throw new Error(`the layout has no Nydus image ${name}`);
}

function readLayer(tarGz: Uint8Array): Pick<FixtureImage, "bootstrap" | "blobMeta"> {
  const files = readTar(gunzipSync(tarGz));
  const bootstrap = files.get("image/image.boot");
  if (bootstrap === undefined) throw new Error("a bootstrap layer without image/image.boot");
  const metas = [...files].flatMap(([path, bytes]) => {
    const [, id] = /^image\/([0-9a-f]{64})\.blob\.meta$/.exec(path) ?? [];
    return id === undefined ? [] : [[id, bytes] as const];
  });
  return { bootstrap, blobMeta: new Map(metas) };
}

/** Regular files of a plain tar, by path. */
function readTar(bytes: Uint8Array): Map<string, Uint8Array> {
  const text = (offset: number, length: number): string =>
    Buffer.from(bytes.subarray(offset, offset + length))
      .toString("latin1")
      .replace(/\0.*$/s, "");
  const files = new Map<string, Uint8Array>();
  let at = 0;
  while (at + TAR_BLOCK_BYTES <= bytes.length && bytes[at] !== 0) {
    const size = Number.parseInt(text(at + 124, 12), 8);
    const start = at + TAR_BLOCK_BYTES;
    if (["0", ""].includes(text(at + 156, 1))) {
      files.set(text(at, 100), bytes.slice(start, start + size));
    }
    at = start + Math.ceil(size / TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES;
  }
  return files;
}

function hexOf(digest: string): string {
  return digest.slice("sha256:".length);
}

export interface ParsedFixture {
  readonly bootstrap: RafsBootstrap;
  readonly blobs: readonly RafsBlob[];
  readonly rows: readonly BlobRows[];
}

/** The bootstrap's tables; the chunk table is given in pieces of `pieceBytes`. */
export function parseFixture(bytes: Uint8Array, pieceBytes = 1000): ParsedFixture {
  const head = bytes.subarray(0, BOOTSTRAP_HEAD_BYTES);
  const bootstrap = parseBootstrapHead(head, bytes.length, "fixture");
  const blobs = parseBlobTable(bytesOf(bytes, bootstrap.blobTable), bootstrap, "fixture");
  const reader = new ChunkTableReader(bootstrap, blobs, "fixture");
  const table = bytesOf(bytes, bootstrap.chunkTable);
  for (let at = 0; at < table.length; at += pieceBytes) {
    reader.push(table.subarray(at, at + pieceBytes));
  }
  return { bootstrap, blobs, rows: reader.finish() };
}

/** The id of the registry blob that holds the chunk infos. */
export function metaIdOf(blob: RafsBlob): string {
  return blob.features.separate ? (blob.metaDigest ?? "") : blob.id;
}

export function bytesOf(bytes: Uint8Array, extent: Extent): Uint8Array {
  return bytes.subarray(extent.offset, extentEnd(extent));
}
