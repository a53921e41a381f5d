// SPDX-License-Identifier: Apache-2.0
// A Nydus image by its reference: its bootstrap layer is fetched and unpacked, then it is taken in
// like one whose bootstrap is a file.

import { rm } from "node:fs/promises";
import { fetchBootstrapLayer } from "../../source/bootstrap-layer.ts";
import type { ResolvedRAFS } from "../../source/reference-resolver.ts";
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
  image: ResolvedRAFS,
  options: FetchOptions,
): Promise<Content> {
  const { source, store, admission, bootstrapBytesMax } = parts;
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
