// SPDX-License-Identifier: Apache-2.0
// From the manifest of a Nydus image to its blobs. What makes it one is the annotation of its last
// layer, the bootstrap, whatever the media types say: OCI and Docker converters write different
// ones (nydus, contrib/nydusify/pkg/utils/constant.go; nydus-snapshotter, pkg/label).
// Served is RAFS v6. Faults: image_unsupported, manifest_invalid.

import { DaemonError } from "../../errors.ts";
import { type Digest, isDigest } from "../../units.ts";
import type { RAFSBlobLayer, RAFSPlan } from "../image.ts";
import type { Descriptor, Manifest } from "./manifest.ts";
import {
  NYDUS_BLOB_ANNOTATION,
  NYDUS_BLOB_TYPE,
  NYDUS_BOOTSTRAP_ANNOTATION,
  NYDUS_EMPTY_LAYER_ANNOTATION,
  NYDUS_FS_VERSION_ANNOTATION,
  NYDUS_REF_ANNOTATION,
  describeMediaType,
  encryptionOf,
} from "./media-types.ts";

const FS_VERSION_SERVED = "6";

export function hasRAFSBootstrap(manifest: Manifest): boolean {
  const last = manifest.layers.at(-1);
  return last !== undefined && annotationOf(last, NYDUS_BOOTSTRAP_ANNOTATION) !== undefined;
}

/** `manifest` has a bootstrap as its last layer. */
export function planRAFS(
  manifest: Manifest,
  { manifestDigest, where }: { readonly manifestDigest: Digest; readonly where: string },
): RAFSPlan {
  const last = manifest.layers.at(-1);
  if (last === undefined) throw unsupported(where, "it has no layers");
  const version = annotationOf(last, NYDUS_FS_VERSION_ANNOTATION);
  // Without the annotation the bootstrap's own superblock will tell.
  if (version !== undefined && version !== FS_VERSION_SERVED) {
    const shown = version.slice(0, 16);
    const detail = `it is a Nydus image of RAFS v${shown}; served is RAFS v6 (nydusify convert --fs-version 6)`;
    throw unsupported(where, detail);
  }
  for (const [position, layer] of manifest.layers.entries()) {
    const encryption = encryptionOf(layer);
    if (encryption !== undefined) {
      throw unsupported(where, `layer ${position} is encrypted (${encryption})`);
    }
  }
  const { digest, size, mediaType } = last;
  return {
    kind: "rafs",
    manifestDigest,
    bootstrap: { digest, size, mediaType },
    blobs: planBlobs(manifest.layers.slice(0, -1), where),
  };
}

function planBlobs(layers: readonly Descriptor[], where: string): readonly RAFSBlobLayer[] {
  const blobs = new Map<Digest, RAFSBlobLayer>();
  for (const [position, layer] of layers.entries()) {
    // Stands in for an image's first layer where tools want one; it holds nothing.
    if (annotationOf(layer, NYDUS_EMPTY_LAYER_ANNOTATION) !== undefined) continue;
    if (!isBlob(layer)) {
      const what = describeMediaType(layer.mediaType);
      throw unsupported(where, `layer ${position} is ${what} in a Nydus image`);
    }
    const { digest, size } = layer;
    const nydusRef = annotationOf(layer, NYDUS_REF_ANNOTATION);
    if (nydusRef !== undefined && !isDigest(nydusRef)) {
      const detail = `layers.${position}: ${NYDUS_REF_ANNOTATION} is not a sha256 digest`;
      throw new DaemonError({ code: "manifest_invalid", where, detail });
    }
    // Layers of equal content are one blob, and one device.
    if (!blobs.has(digest)) {
      blobs.set(digest, nydusRef === undefined ? { digest, size } : { digest, size, nydusRef });
    }
  }
  return [...blobs.values()];
}

function isBlob(layer: Descriptor): boolean {
  return (
    annotationOf(layer, NYDUS_BLOB_ANNOTATION) !== undefined || layer.mediaType === NYDUS_BLOB_TYPE
  );
}

function annotationOf({ annotations }: Descriptor, name: string): string | undefined {
  return annotations !== undefined && Object.hasOwn(annotations, name)
    ? annotations[name]
    : undefined;
}

function unsupported(where: string, detail: string): DaemonError {
  return new DaemonError({ code: "image_unsupported", where, detail });
}
