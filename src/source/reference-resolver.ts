// SPDX-License-Identifier: Apache-2.0
// From a reference as text to what it names now: the blobs of one mountable image.

import { arch } from "node:os";
import type { ImagePlan } from "../image/image.ts";
import { machinePlatform } from "../image/oci/platform.ts";
import { formatReference, parseReference } from "../image/oci/reference.ts";
import type { Digest } from "../units.ts";
import { resolveImage } from "./resolve-image.ts";
import type { FetchOptions, Origin, SizedBlobLocation, Source } from "./source.ts";

interface Resolved {
  /** In its canonical form. */
  readonly reference: string;
  readonly manifestDigest: Digest;
}

/** Its layers are the streams. */
export interface ResolvedEROFS extends Resolved {
  readonly kind: "erofs";
  /** The bootstrap. */
  readonly stream: SizedBlobLocation;
  /** In the manifest's order. */
  readonly devices: readonly SizedBlobLocation[];
}

/** A Nydus image: its bootstrap is in a tar, and says which blobs hold what. */
export interface ResolvedRAFS extends Resolved {
  readonly kind: "rafs";
  readonly bootstrapLayer: SizedBlobLocation & { readonly mediaType: string };
  /** In the manifest's order; a chunk dictionary's blobs may be missing from it. */
  readonly blobs: readonly SizedBlobLocation[];
  /** From a blob that is an index to the original tar.gz it is for, in the same repository. */
  readonly nydusRefs: ReadonlyMap<Digest, Digest>;
}

export type ResolvedReference = ResolvedEROFS | ResolvedRAFS;

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
      return locate(plan, origin, formatReference(reference));
    },
  };
}

function locate(plan: ImagePlan, origin: Origin, reference: string): ResolvedReference {
  const at = ({ digest, size }: { digest: Digest; size: number }): SizedBlobLocation => ({
    origin,
    digest,
    size,
  });
  const { manifestDigest, bootstrap } = plan;
  if (plan.kind === "erofs") {
    const { kind, devices } = plan;
    return { kind, reference, manifestDigest, stream: at(bootstrap), devices: devices.map(at) };
  }
  const refs = plan.blobs.flatMap(({ digest, nydusRef }): [Digest, Digest][] =>
    nydusRef === undefined ? [] : [[digest, nydusRef]],
  );
  return {
    kind: plan.kind,
    reference,
    manifestDigest,
    bootstrapLayer: { ...at(bootstrap), mediaType: bootstrap.mediaType },
    blobs: plan.blobs.map(at),
    nydusRefs: new Map(refs),
  };
}
