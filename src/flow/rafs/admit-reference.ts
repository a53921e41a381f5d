// SPDX-License-Identifier: Apache-2.0
// A Nydus image by its reference: its bootstrap is a file already, or is fetched and unpacked.

import { rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { ResolvedBootstrap, ResolvedRAFS } from "../../source/reference-resolver.ts";
import type { BlobLocation, FetchOptions, Source } from "../../source/source.ts";
import type { Content } from "../../state/bindings.ts";
import type { StreamStore } from "../../state/stream-store.ts";
import type { Digest } from "../../units.ts";
import type { RafsAdmission } from "./admit-image.ts";

export interface AdmitReferenceParts {
  readonly source: Source;
  readonly store: StreamStore;
  readonly admission: RafsAdmission;
  /** Of the unpacked bootstrap layer. */
  readonly bootstrapBytesMax: number;
}

/** Faults: the source's, digest_mismatch, image_invalid, image_unsupported. */
export async function admitReference(
  parts: AdmitReferenceParts,
  image: ResolvedRAFS | ResolvedBootstrap,
  options: FetchOptions,
): Promise<Content> {
  const { source, store, admission, bootstrapBytesMax } = parts;
  if (image.kind === "bootstrap") return admitFile(admission, image, options);
  // Late: whoever has its bootstraps as files never needs a reader of tars.
  const { fetchBootstrapLayer } = await import("../../source/bootstrap-layer.ts");
  const directory = await store.temporary();
  try {
    const files = await fetchBootstrapLayer(source, image.bootstrapLayer, directory, {
      ...options,
      bytesMax: bootstrapBytesMax,
    });
    const { origin } = image.bootstrapLayer;
    const named = new Map<Digest, BlobLocation>(image.blobs.map((blob) => [blob.digest, blob]));
    return await admission.admit(
      {
        reference: image.reference,
        manifestDigest: image.manifestDigest,
        bootstrapPath: files.bootstrapPath,
        blobMeta: (id) => Promise.resolve(files.blobMetas.get(id)?.path),
        // Blobs of a chunk dictionary, and a zran image's tar.gz, are not in its manifest.
        locate: (digest) => named.get(digest) ?? { origin, digest, size: undefined },
      },
      options,
    );
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function admitFile(
  admission: RafsAdmission,
  { reference, path, blobs }: ResolvedBootstrap,
  options: FetchOptions,
): Promise<Content> {
  const locate = (digest: Digest): BlobLocation => ({ origin: blobs, digest, size: undefined });
  const image = {
    reference,
    manifestDigest: undefined,
    bootstrapPath: path,
    blobMeta: (id: string) => firstFile([dirname(path), blobs.repository], `${id}.blob.meta`),
    locate,
  };
  return admission.admit(image, options);
}

/** The path of the first such file; undefined when there is none. */
export async function firstFile(
  directories: readonly string[],
  name: string,
): Promise<string | undefined> {
  for (const directory of directories) {
    const path = join(directory, name);
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() === true) return path;
  }
  return undefined;
}
