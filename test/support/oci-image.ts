// SPDX-License-Identifier: Apache-2.0
// OCI documents made by hand for tests: descriptors, manifests, indexes, image-layout
// directories. Free of test libraries: it also runs inside a guest.

import { createHash } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Digest, isDigest } from "../../src/units.ts";

export const OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
export const OCI_INDEX = "application/vnd.oci.image.index.v1+json";
export const OCI_CONFIG = "application/vnd.oci.image.config.v1+json";

export interface Blob {
  readonly bytes: Uint8Array;
  readonly mediaType: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: object;
}

export interface BuiltImage {
  /** The manifest itself. */
  readonly manifest: Blob;
  readonly descriptor: Descriptor;
  readonly config: Blob;
  readonly layers: readonly Blob[];
  readonly layerDescriptors: readonly Descriptor[];
}

export function digestOf(bytes: Uint8Array): Digest {
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  if (!isDigest(digest)) throw new Error("unreachable");
  return digest;
}

export function describe({ bytes, mediaType, annotations }: Blob): Descriptor {
  const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
  return annotations === undefined ? descriptor : { ...descriptor, annotations };
}

export function jsonBytes(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** An image manifest over `layers`; `extra` adds or replaces fields of the manifest. */
export function buildImage(layers: readonly Blob[], extra: object = {}): BuiltImage {
  const configValue = { architecture: "amd64", os: "linux", "os.features": ["erofs"] };
  const config = { bytes: jsonBytes(configValue), mediaType: OCI_CONFIG };
  const layerDescriptors = layers.map(describe);
  const value = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: describe(config),
    layers: layerDescriptors,
    ...extra,
  };
  const manifest = { bytes: jsonBytes(value), mediaType: OCI_MANIFEST };
  return { manifest, descriptor: describe(manifest), config, layers, layerDescriptors };
}

/** An index over `entries`. */
export function buildIndex(entries: readonly object[]): Blob {
  const value = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: entries };
  return { bytes: jsonBytes(value), mediaType: OCI_INDEX };
}

/** Writes an image-layout directory; each `manifests` entry is listed in index.json as it is. */
export async function writeLayout(
  root: string,
  { blobs, manifests }: { blobs: readonly Blob[]; manifests: readonly object[] },
): Promise<void> {
  const folder = join(root, "blobs", "sha256");
  await mkdir(folder, { recursive: true });
  await writeFile(join(root, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  await writeFile(join(root, "index.json"), buildIndex(manifests).bytes);
  await Promise.all(
    blobs.map(({ bytes }) =>
      writeFile(join(folder, digestOf(bytes).slice("sha256:".length)), bytes),
    ),
  );
}
