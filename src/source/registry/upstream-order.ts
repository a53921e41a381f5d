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
 * the registry, then those mirrors that are doubted. Mirrors that rest are left out as long as
 * another upstream does not; the registry is asked all the same, last, for a mirror's "no" is not
 * its own. When all rest, all are asked. Empty when none may be asked for this.
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
  const resting = able.filter(({ standing }) => standing === "resting");
  const asked = [
    ...awake.filter(({ isDoubted }) => !isDoubted),
    ...awake.filter(({ isDoubted }) => isDoubted),
    ...resting.filter(({ upstream }) => awake.length === 0 || !upstream.isMirror),
  ];
  return asked.map(({ upstream }) => upstream);
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
