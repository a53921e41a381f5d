// SPDX-License-Identifier: Apache-2.0
// What resolving a reference yields: which blobs of a repository make one mountable image.
// Sizes are in bytes of stored space, which for a raw EROFS layer is logical space too.

import type { Digest } from "../units.ts";

/** One layer as its descriptor gives it. */
export interface ImageLayer {
  readonly digest: Digest;
  readonly size: number;
  readonly mediaType: string;
}

/** One EROFS layer: the bootstrap (primary device) or an extra device. */
export type EROFSLayer = ImageLayer;

/** A single mountable EROFS image. `devices` is in manifest order, which is the device table's. */
export interface EROFSPlan {
  readonly kind: "erofs";
  /** Digest of the image manifest chosen (of the index entry, when the reference named an index). */
  readonly manifestDigest: Digest;
  readonly bootstrap: EROFSLayer;
  readonly devices: readonly EROFSLayer[];
}

/** A layer of a Nydus image that holds chunks, or what is needed to find them in another blob. */
export interface RAFSBlobLayer {
  readonly digest: Digest;
  readonly size: number;
  /** The original tar.gz in the same repository that holds the chunks; then this blob is an index. */
  readonly nydusRef?: Digest;
}

/** A Nydus (RAFS v6) image. Its device table, not the manifest, says which blobs are its devices. */
export interface RAFSPlan {
  readonly kind: "rafs";
  readonly manifestDigest: Digest;
  /** A tar, gzipped or not, with the bootstrap in it. */
  readonly bootstrap: ImageLayer;
  /** In manifest order; each digest once. */
  readonly blobs: readonly RAFSBlobLayer[];
}

export type ImagePlan = EROFSPlan | RAFSPlan;
