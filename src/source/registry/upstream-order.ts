// SPDX-License-Identifier: Apache-2.0
// Which upstreams are asked, in which order, and whether a failure at one leads to the next.
// Pure: it decides, others ask.

import type { Code, DaemonError } from "../../errors.ts";
import type { Upstream } from "./upstream.ts";

/** `resolve`: a manifest by tag; `pull`: everything that has a digest. */
export type Purpose = "pull" | "resolve";

/**
 * The upstreams to ask for one round of tries, first things first: mirrors as they are listed,
 * then the registry. Empty when none may be asked for this.
 */
export function planRound(upstreams: readonly Upstream[], purpose: Purpose): readonly Upstream[] {
  return upstreams.filter(({ capabilities }) => capabilities[purpose]);
}

/** What an upstream answers, or does not: another one may do better. */
const OF_ONE_UPSTREAM: ReadonlySet<Code> = new Set([
  "registry_unreachable",
  "registry_timeout",
  "registry_unauthorized",
  "registry_throttled",
  "registry_failed",
  "registry_protocol",
  "manifest_not_found",
  "blob_not_found",
  "blob_truncated",
  "digest_mismatch",
]);

/** False for what would fail everywhere: an abort, a deadline. */
export function leadsToNext(error: DaemonError): boolean {
  return OF_ONE_UPSTREAM.has(error.fault.code);
}
