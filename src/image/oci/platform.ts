// SPDX-License-Identifier: Apache-2.0
// Which entries of an index are for this machine, best first: an entry that asks for the OS
// feature `erofs` (EROFS image layer format, section 5.4) before one that is marked as a Nydus
// image before a plain one, then the highest CPU variant this machine runs, then the index's
// order. Entries that ask for features erofsd does not offer are never taken.

import { DaemonError } from "../../errors.ts";
import { type Digest, isDigest } from "../../units.ts";
import {
  NYDUS_ARTIFACT_TYPE,
  NYDUS_OS_FEATURE,
  isIndexType,
  isManifestType,
} from "./media-types.ts";
import type { Index, IndexEntry } from "./manifest.ts";

/** In OCI's words, which are Go's: linux, amd64, arm64 ... */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  /** The highest CPU variant the machine runs (`v8`); absent means the architecture's usual one. */
  readonly variant?: string;
}

/** An entry to look into. */
export interface Candidate {
  readonly digest: Digest;
  readonly mediaType: string;
}

const EROFS_OS_FEATURE = "erofs";
const FEATURES_OFFERED: readonly string[] = [EROFS_OS_FEATURE, NYDUS_OS_FEATURE];
/** Above every CPU variant. */
const EROFS_RANK = 2000;
const NYDUS_RANK = 1000;
/** More entries than this for one platform are not looked into. */
const CANDIDATES_MAX = 8;

const ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: "amd64",
  ia32: "386",
  arm64: "arm64",
  arm: "arm",
  riscv64: "riscv64",
  s390x: "s390x",
  ppc64: "ppc64le",
  loong64: "loong64",
};

const USUAL_VARIANT: Readonly<Record<string, number>> = { arm64: 8, arm: 7, amd64: 1 };

/** The platform of a machine from Node's name of its CPU (`process.arch`). EROFS images are Linux's. */
export function machinePlatform(nodeArch: string): Platform {
  return { os: "linux", architecture: ARCHITECTURES[nodeArch] ?? nodeArch };
}

/** At least one, best first. Faults: image_unsupported naming what the index has. */
export function candidateEntries(
  index: Index,
  platform: Platform,
  where: string,
): readonly Candidate[] {
  const ranked = index.manifests
    .map((entry, position) => ({ entry, position, rank: rankEntry(entry, platform) }))
    .filter(({ rank }) => rank > 0)
    .sort((a, b) => b.rank - a.rank || a.position - b.position);
  const chosen = ranked.length > 0 ? ranked.map(({ entry }) => entry) : withoutPlatform(index);
  const candidates = chosen
    .slice(0, CANDIDATES_MAX)
    .flatMap(({ digest, mediaType }) => (isDigest(digest) ? [{ digest, mediaType }] : []));
  if (candidates.length === 0) {
    throw new DaemonError({
      code: "image_unsupported",
      where,
      detail: `it has no image for ${platformText(platform)}; it has ${describeEntries(index)}`,
    });
  }
  return candidates;
}

/** 0: not for this machine. Higher is better. */
function rankEntry(entry: IndexEntry, platform: Platform): number {
  const wanted = entry.platform;
  if (wanted === undefined || !isFollowed(entry.mediaType)) return 0;
  if (wanted.os !== platform.os || wanted.architecture !== platform.architecture) return 0;
  const features = wanted["os.features"] ?? [];
  if (!features.every((feature) => FEATURES_OFFERED.includes(feature))) return 0;
  const variant = variantNumber(wanted.architecture, wanted.variant);
  if (variant > variantNumber(platform.architecture, platform.variant)) return 0;
  return 1 + variant + formatRank(entry, features);
}

function formatRank({ artifactType }: IndexEntry, features: readonly string[]): number {
  if (features.includes(EROFS_OS_FEATURE)) return EROFS_RANK;
  const isMarked = artifactType === NYDUS_ARTIFACT_TYPE || features.includes(NYDUS_OS_FEATURE);
  return isMarked ? NYDUS_RANK : 0;
}

/** `v8` is 8; an unknown spelling is above every machine's. */
function variantNumber(architecture: string, variant: string | undefined): number {
  if (variant === undefined || variant === "") return USUAL_VARIANT[architecture] ?? 0;
  const digits = /^v([0-9]{1,2})(?:\.[0-9]{1,2})?$/.exec(variant)?.[1];
  return digits === undefined ? 500 : Number(digits);
}

/** An index of one image need not say for which machine it is. */
function withoutPlatform(index: Index): readonly IndexEntry[] {
  const followed = index.manifests.filter((entry) => isFollowed(entry.mediaType));
  const [only] = followed;
  return followed.length === 1 && only !== undefined && only.platform === undefined ? [only] : [];
}

function isFollowed(mediaType: string): boolean {
  return isManifestType(mediaType) || isIndexType(mediaType);
}

function describeEntries(index: Index): string {
  const names = index.manifests
    .flatMap(({ platform }) => (platform === undefined ? [] : [platform]))
    .map((platform) => {
      const features = platform["os.features"] ?? [];
      return platformText(platform) + features.map((feature) => `(+${feature})`).join("");
    });
  const distinct = [...new Set(names)].slice(0, 16);
  return distinct.length === 0 ? "no entry that says its platform" : distinct.join(", ");
}

function platformText(platform: {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string | undefined;
}): string {
  const variant = platform.variant === undefined ? "" : `/${platform.variant}`;
  return `${platform.os}/${platform.architecture}${variant}`.slice(0, 80);
}
