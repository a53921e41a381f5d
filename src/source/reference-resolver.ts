// SPDX-License-Identifier: Apache-2.0
// From a reference as text to what it names now: the blobs of one mountable image.

import { arch } from "node:os";
import { dirname, isAbsolute } from "node:path";
import { DaemonError } from "../errors.ts";
import type { ImagePlan } from "../image/image.ts";
import { machinePlatform } from "../image/oci/platform.ts";
import {
  type BootstrapReference,
  formatReference,
  parseReference,
} from "../image/oci/reference.ts";
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

/** A Nydus bootstrap that is a file; its own digest stands for a manifest's. */
export interface ResolvedBootstrap {
  readonly kind: "bootstrap";
  readonly reference: string;
  readonly path: string;
  readonly blobs: Origin;
}

export type ResolvedReference = ResolvedEROFS | ResolvedRAFS | ResolvedBootstrap;

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
    isImmutable(text) {
      const reference = parseReference(text);
      return reference.kind !== "bootstrap" && reference.digest !== undefined;
    },
    async resolve(text, options) {
      const reference = parseReference(text);
      if (reference.kind === "bootstrap") return locateBootstrap(reference);
      const { plan, origin } = await resolveImage(source, reference, platform, options);
      return locate(plan, origin, formatReference(reference));
    },
  };
}

function locateBootstrap(reference: BootstrapReference): ResolvedBootstrap {
  const { path, blobDirectory = dirname(path) } = reference;
  for (const each of [path, blobDirectory]) {
    if (isAbsolute(each)) continue;
    const detail = `write the absolute path of ${each}`;
    throw new DaemonError({
      code: "reference_invalid",
      reference: formatReference(reference),
      detail,
    });
  }
  return {
    kind: "bootstrap",
    reference: formatReference(reference),
    path,
    blobs: { kind: "directory", host: "directory", repository: blobDirectory },
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
