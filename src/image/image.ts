// SPDX-License-Identifier: Apache-2.0
// What resolving a reference yields: the streams the kernel will address.
// Sizes are in bytes of stored space, which for a raw EROFS layer is logical space too.

import type { Digest } from "../units.ts";

/** One EROFS layer: the bootstrap (primary device) or an extra device. */
export interface EROFSLayer {
  readonly digest: Digest;
  readonly size: number;
  readonly mediaType: string;
}

/** A single mountable EROFS image. `devices` is in manifest order, which is the device table's. */
export interface ImagePlan {
  /** Digest of the image manifest chosen (of the index entry, when the reference named an index). */
  readonly manifestDigest: Digest;
  readonly bootstrap: EROFSLayer;
  readonly devices: readonly EROFSLayer[];
}
