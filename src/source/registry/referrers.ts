// SPDX-License-Identifier: Apache-2.0
// What refers to a manifest, as a registry itself lists it (distribution-spec, "Listing
// Referrers"): one request, one try. Registries without such a list answer in many ways.

import { DaemonError } from "../../errors.ts";
import { MANIFEST_BYTES_MAX } from "../../image/oci/manifest.ts";
import { OCI_INDEX } from "../../image/oci/media-types.ts";
import type { Digest } from "../../units.ts";
import { type HTTPClient, PieceCollector, type Try } from "./http-get.ts";
import { upstreamUrl } from "./upstream.ts";

/** Besides 404: how a registry answers to a path that it does not know. */
const UNKNOWN_PATH = new Set([400, 405, 406, 501]);

/**
 * The first page of the list, an index; undefined: this registry has no such lists. Faults:
 * registry_*, what the signal stands for.
 */
export async function fetchReferrers(
  http: HTTPClient,
  attempt: Try,
  of: { readonly subject: Digest; readonly artifactType: string },
): Promise<Uint8Array | undefined> {
  const { upstream, repository } = attempt;
  const { subject, artifactType } = of;
  const collector = new PieceCollector(MANIFEST_BYTES_MAX, upstream.name);
  const url = upstreamUrl(upstream, repository, `referrers/${subject}`);
  url.searchParams.set("artifactType", artifactType);
  let isList = false;
  try {
    await http.get({
      ...attempt,
      url,
      headers: { accept: OCI_INDEX },
      notFound: { code: "manifest_not_found", host: upstream.name, repository, wanted: subject },
      onHead: (head) => {
        // A page for people, with status 200, is no list either.
        isList = (head.headers.get("content-type") ?? "").startsWith(OCI_INDEX);
        return isList ? (piece) => collector.add(piece) : undefined;
      },
    });
  } catch (error) {
    if (isUnknownPath(error)) return undefined;
    throw error;
  }
  return isList ? collector.join() : undefined;
}

function isUnknownPath(error: unknown): boolean {
  if (!(error instanceof DaemonError)) return false;
  const { fault } = error;
  if (fault.code === "registry_failed") return UNKNOWN_PATH.has(fault.status);
  return fault.code === "manifest_not_found";
}
