// SPDX-License-Identifier: Apache-2.0
// Pushes blobs and manifests to a registry with plain HTTP uploads (OCI distribution-spec,
// "Pushing blobs" in two requests, "Pushing manifests"). Free of test libraries: it also runs
// inside a guest. A blob may be a file of any size.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { request } from "undici";
import { type Digest, isDigest } from "../../src/units.ts";
import { type BuiltImage, type Descriptor, buildImage, describe } from "./oci-image.ts";

export interface PushTarget {
  /** `127.0.0.1:5000`; spoken to without TLS. */
  readonly host: string;
  readonly repository: string;
}

export type BlobBody = Uint8Array | { readonly path: string };

export interface PushedBlob {
  readonly digest: Digest;
  readonly size: number;
}

/** A layer of an image to push. */
export interface PushLayer {
  readonly body: BlobBody;
  readonly mediaType: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

export async function pushBlob(target: PushTarget, body: BlobBody): Promise<PushedBlob> {
  const { digest, size } = await measure(body);
  const base = `http://${target.host}`;
  const begun = await call("POST", `${base}/v2/${target.repository}/blobs/uploads/`);
  const upload = new URL(begun.location, base);
  upload.searchParams.set("digest", digest);
  await call("PUT", upload.href, {
    body: body instanceof Uint8Array ? body : createReadStream(body.path),
    headers: { "content-type": "application/octet-stream", "content-length": String(size) },
  });
  return { digest, size };
}

/** `reference` is a tag, or the digest of `bytes`. */
export async function pushManifest(
  target: PushTarget,
  reference: string,
  manifest: { readonly bytes: Uint8Array; readonly mediaType: string },
): Promise<Descriptor> {
  await call("PUT", `http://${target.host}/v2/${target.repository}/manifests/${reference}`, {
    body: manifest.bytes,
    headers: { "content-type": manifest.mediaType },
  });
  return describe(manifest);
}

/** Config, layers, then the manifest under `tag`. */
export async function pushBuiltImage(
  target: PushTarget,
  tag: string,
  image: BuiltImage,
): Promise<Descriptor> {
  for (const blob of [image.config, ...image.layers]) await pushBlob(target, blob.bytes);
  return await pushManifest(target, tag, image.manifest);
}

/** An image of layers that need not fit into memory. */
export async function pushImage(
  target: PushTarget,
  tag: string,
  layers: readonly PushLayer[],
): Promise<{ readonly manifest: Descriptor; readonly layers: readonly Descriptor[] }> {
  const descriptors: Descriptor[] = [];
  for (const { body, mediaType, annotations } of layers) {
    const pushed = await pushBlob(target, body);
    descriptors.push({
      mediaType,
      ...pushed,
      ...(annotations === undefined ? {} : { annotations }),
    });
  }
  const image = buildImage([], { layers: descriptors });
  await pushBlob(target, image.config.bytes);
  return { manifest: await pushManifest(target, tag, image.manifest), layers: descriptors };
}

async function measure(body: BlobBody): Promise<PushedBlob> {
  const hash = createHash("sha256");
  if (body instanceof Uint8Array) {
    return { digest: digestText(hash.update(body).digest("hex")), size: body.length };
  }
  const stream = createReadStream(body.path).on("data", (piece) => hash.update(piece));
  await once(stream, "end");
  const { size } = await stat(body.path);
  return { digest: digestText(hash.digest("hex")), size };
}

function digestText(hex: string): Digest {
  const digest = `sha256:${hex}`;
  if (!isDigest(digest)) throw new Error("unreachable");
  return digest;
}

async function call(
  method: "POST" | "PUT",
  url: string,
  options: { body?: Uint8Array | Readable; headers?: Record<string, string> } = {},
): Promise<{ location: string }> {
  const { statusCode, headers, body } = await request(url, {
    method,
    body: options.body ?? null,
    headers: options.headers ?? {},
  });
  const text = await body.text();
  if (statusCode < 200 || statusCode > 299) {
    throw new Error(`${method} ${new URL(url).pathname}: HTTP ${statusCode} ${text}`);
  }
  const { location } = headers;
  return { location: typeof location === "string" ? location : "" };
}
