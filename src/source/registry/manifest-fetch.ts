// SPDX-License-Identifier: Apache-2.0
// A manifest from one upstream, one try: asked for by tag or digest, and held against the digest
// that was asked for, or else against the one the upstream itself gives.

import { createHash } from "node:crypto";
import { DaemonError, invariant } from "../../errors.ts";
import { MANIFEST_BYTES_MAX } from "../../image/oci/manifest.ts";
import { MANIFEST_TYPES } from "../../image/oci/media-types.ts";
import { type Digest, isDigest } from "../../units.ts";
import type { FetchedManifest } from "../source.ts";
import type { ResponseHead } from "./exchange.ts";
import { type HTTPClient, PieceCollector, type Try } from "./http-get.ts";
import { upstreamUrl } from "./upstream.ts";

/** Faults: registry_*, manifest_not_found, digest_mismatch, what the signal stands for. */
export async function fetchManifest(
  http: HTTPClient,
  attempt: Try,
  wanted: string,
): Promise<FetchedManifest> {
  const { upstream, repository } = attempt;
  const collector = new PieceCollector(MANIFEST_BYTES_MAX, upstream.name);
  let answer: ResponseHead | undefined;
  await http.get({
    ...attempt,
    url: upstreamUrl(upstream, repository, `manifests/${wanted}`),
    headers: { accept: MANIFEST_TYPES.join(", ") },
    notFound: { code: "manifest_not_found", host: upstream.name, repository, wanted },
    onHead: (head) => {
      answer = head;
      return (piece) => collector.add(piece);
    },
  });
  invariant(answer !== undefined, "a body comes after its head");
  return checkManifest(answer, collector.join(), wanted);
}

/** What the upstream says it is, against what it is. */
function checkManifest(head: ResponseHead, bytes: Uint8Array, wanted: string): FetchedManifest {
  const digest = sha256(bytes);
  const said = head.headers.get("docker-content-digest") ?? "";
  const expected = isDigest(wanted) ? wanted : isDigest(said) ? said : digest;
  if (digest !== expected) {
    throw new DaemonError({
      code: "digest_mismatch",
      where: `manifest ${wanted} at ${head.host}`,
      expected,
      actual: digest,
    });
  }
  const mediaType = (head.headers.get("content-type")?.split(";")[0] ?? "").trim();
  return { digest, mediaType, bytes };
}

function sha256(bytes: Uint8Array): Digest {
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  invariant(isDigest(digest), "a SHA-256 is a digest");
  return digest;
}
