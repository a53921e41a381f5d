// SPDX-License-Identifier: Apache-2.0
// From a reference to an image's plan: fetches the documents and lets the image room choose.
// An index may list several entries for this machine; those that turn out not to be served
// (a tar image beside its EROFS twin, by a tool that left the marks out) are passed over.

import { isAbsolute, resolve } from "node:path";
import { DaemonError } from "../errors.ts";
import type { ImagePlan } from "../image/image.ts";
import { parseDocument } from "../image/oci/manifest.ts";
import { planImage } from "../image/oci/plan-image.ts";
import { type Platform, candidateEntries } from "../image/oci/platform.ts";
import { type Reference, formatReference, wantedOf } from "../image/oci/reference.ts";
import type { FetchedManifest, FetchOptions, Origin, Source } from "./source.ts";

/** An index may lead to an index, but not that one to a third. */
const INDEX_DEPTH_MAX = 2;

export interface ResolvedImage {
  readonly plan: ImagePlan;
  readonly origin: Origin;
  /** The image manifest the plan was made from. */
  readonly manifest: FetchedManifest;
}

/** Where a reference's blobs are. Faults: reference_invalid for a layout path that is relative. */
export function originOf(reference: Reference): Origin {
  if (reference.kind === "registry") {
    return { kind: "registry", host: reference.host, repository: reference.repository };
  }
  if (!isAbsolute(reference.path)) {
    throw new DaemonError({
      code: "reference_invalid",
      reference: formatReference(reference),
      detail: "write the absolute path of the layout directory",
    });
  }
  return { kind: "layout", host: "oci", repository: resolve(reference.path) };
}

/**
 * Faults: those of fetchManifest; manifest_invalid, image_unsupported. All documents are
 * fetched within `options.deadlineMs`.
 */
export async function resolveImage(
  source: Source,
  reference: Reference,
  platform: Platform,
  options: FetchOptions,
): Promise<ResolvedImage> {
  const origin = originOf(reference);
  const name = formatReference(reference);
  const search = { source, origin, name, platform, options };
  return await resolveDocument(search, { wanted: wantedOf(reference), depth: 0 });
}

interface Search {
  readonly source: Source;
  readonly origin: Origin;
  /** The reference, to name documents in faults. */
  readonly name: string;
  readonly platform: Platform;
  readonly options: FetchOptions;
}

interface Step {
  readonly wanted: string;
  /** Indexes passed on the way. */
  readonly depth: number;
  /** As the index entry says; where a source does not know the type itself. */
  readonly mediaType?: string;
}

async function resolveDocument(search: Search, step: Step): Promise<ResolvedImage> {
  const { source, origin, name, platform, options } = search;
  const manifest = await source.fetchManifest(origin, step.wanted, options);
  const where = step.depth === 0 ? name : `${name} (${manifest.digest})`;
  const mediaType = step.mediaType ?? manifest.mediaType;
  const document = parseDocument({ bytes: manifest.bytes, mediaType, where });
  if (document.kind === "manifest") {
    const plan = planImage(document.manifest, { manifestDigest: manifest.digest, where });
    return { plan, origin, manifest };
  }
  if (step.depth >= INDEX_DEPTH_MAX) {
    const detail = `it is an index within more than ${INDEX_DEPTH_MAX - 1} other`;
    throw new DaemonError({ code: "image_unsupported", where, detail });
  }
  let refusal: DaemonError | undefined;
  for (const entry of candidateEntries(document.index, platform, where)) {
    const next = { wanted: entry.digest, depth: step.depth + 1, mediaType: entry.mediaType };
    try {
      return await resolveDocument(search, next);
    } catch (error) {
      if (!(error instanceof DaemonError) || error.fault.code !== "image_unsupported") throw error;
      refusal ??= error;
    }
  }
  throw refusal ?? new Error("an index has at least one candidate");
}
