// SPDX-License-Identifier: Apache-2.0
// Which upstreams are asked, in which order, and whether a failure at one leads to the next.
// Pure: it decides, others ask.

import type { Code, DaemonError } from "../../errors.ts";
import type { Upstream } from "./upstream.ts";
import type { Standing } from "./upstream-health.ts";

/** `resolve`: a manifest by tag; `pull`: everything that has a digest. */
export type Purpose = "pull" | "resolve";

/** What is known of an upstream, as far as this fetch is concerned. */
export interface Prospect {
  readonly standing: Standing;
  /** It does not have this blob, or has served it wrongly. */
  readonly isDoubted: boolean;
}

/**
 * The upstreams to ask for one round of tries, first things first: mirrors as they are listed, then
 * the registry, then those mirrors that are doubted. One that rests is left out as long as another
 * does not; when all rest, all are asked, for one of them must be. Empty when none may be asked
 * for this.
 */
export function planRound(
  upstreams: readonly Upstream[],
  purpose: Purpose,
  prospectOf: (upstream: Upstream) => Prospect,
): readonly Upstream[] {
  const able = upstreams
    .filter(({ capabilities }) => capabilities[purpose])
    .map((upstream) => ({ upstream, ...prospectOf(upstream) }));
  const awake = able.filter(({ standing }) => standing !== "resting");
  const asked = awake.length > 0 ? awake : able;
  const [good, doubted] = [false, true].map((is) => asked.filter((each) => each.isDoubted === is));
  return [...(good ?? []), ...(doubted ?? [])].map(({ upstream }) => upstream);
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
