// SPDX-License-Identifier: Apache-2.0
// From a reference as text to what it names now: the streams of one mountable image.

import { arch } from "node:os";
import { machinePlatform } from "../image/oci/platform.ts";
import { formatReference, parseReference } from "../image/oci/reference.ts";
import type { Digest } from "../units.ts";
import { resolveImage } from "./resolve-image.ts";
import type { BlobLocation, FetchOptions, Source } from "./source.ts";

export interface ResolvedReference {
  /** In its canonical form. */
  readonly reference: string;
  readonly manifestDigest: Digest;
  /** The bootstrap. */
  readonly stream: BlobLocation;
  /** In the manifest's order. */
  readonly devices: readonly BlobLocation[];
}

export interface ReferenceResolver {
  /** The canonical form. Fault: reference_invalid. */
  canonical(reference: string): string;
  /** True when the reference names one content for ever. Fault: reference_invalid. */
  isImmutable(reference: string): boolean;
  /** Faults: reference_invalid, registry_*, manifest_*, image_unsupported, layout_failed. */
  resolve(reference: string, options: FetchOptions): Promise<ResolvedReference>;
}

/** Resolves against `source`, for the platform of this machine. */
export function createReferenceResolver(source: Source): ReferenceResolver {
  const platform = machinePlatform(arch());
  return {
    canonical: (reference) => formatReference(parseReference(reference)),
    isImmutable: (reference) => parseReference(reference).digest !== undefined,
    async resolve(text, options) {
      const reference = parseReference(text);
      const { plan, origin } = await resolveImage(source, reference, platform, options);
      const locate = ({ digest, size }: { digest: Digest; size: number }): BlobLocation => ({
        origin,
        digest,
        size,
      });
      return {
        reference: formatReference(reference),
        manifestDigest: plan.manifestDigest,
        stream: locate(plan.bootstrap),
        devices: plan.devices.map(locate),
      };
    },
  };
}
