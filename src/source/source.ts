// SPDX-License-Identifier: Apache-2.0
// The one interface to stored bytes, whatever keeps them: a registry, an OCI layout directory,
// a plain directory of blobs. It knows hosts, repositories and blobs, nothing of readers.

import type { Digest, Extent, Urgency } from "../units.ts";

export type { Urgency } from "../units.ts";

/**
 * Where blobs of an image are stored. For a layout, `host` is "oci" and `repository` its absolute
 * path. For a directory whose files are named by their 64 hex digits, `host` is "directory" and
 * `repository` its absolute path.
 */
export interface Origin {
  readonly kind: "registry" | "layout" | "directory";
  readonly host: string;
  readonly repository: string;
  /** Only for a directory: the absolute path of the one file that is every blob of this origin. */
  readonly blobFile?: string | undefined;
}

/** An origin as people write it: `host/repository`, `oci:PATH`, or `directory:PATH`. */
export function formatOrigin({ kind, host, repository, blobFile }: Origin): string {
  return kind === "registry" ? `${host}/${repository}` : `${host}:${blobFile ?? repository}`;
}

export interface BlobLocation {
  readonly origin: Origin;
  readonly digest: Digest;
  /**
   * Stored size in bytes, as the descriptor gives it. An answer that contradicts it is a fault.
   * Undefined: no descriptor names this blob (a chunk dictionary's, the original of an index blob).
   */
  readonly size: number | undefined;
}

/** A blob that a descriptor names. */
export interface SizedBlobLocation extends BlobLocation {
  readonly size: number;
}

/** What is wrong with a blob of which `storedBytes` exist; undefined: fewer than were asked for. */
export function sizeContradiction(blob: BlobLocation, storedBytes: number | undefined): string {
  const stored = `${storedBytes ?? "fewer"} bytes stored`;
  return blob.size === undefined
    ? `${stored}, fewer than were asked for`
    : `${stored}, ${blob.size} by its manifest`;
}

export interface FetchedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  /** At most 4 MiB (OCI distribution-spec), and it hashes to `digest`. */
  readonly bytes: Uint8Array;
}

export interface TraceIds {
  /** Undefined where no READ asked for it. */
  readonly miss: number | undefined;
  readonly fetch: number;
}

export interface FetchOptions {
  /** Aborting ends the fetch at once; its reason, when a DaemonError, becomes the rejection. */
  readonly signal: AbortSignal;
  /** Absolute time on the source's clock after which no further try is made; the fetch rejects by then. */
  readonly deadlineMs: number;
  /** Tries in all, at most; 1 means: do not try again. By default the configured number. */
  readonly attemptsMax?: number;
  /** It is tried until its deadline, unless trying again cannot help: a reader waits for it. */
  readonly isPatient?: boolean;
  /** Who waits for it when it begins; default `demand`. */
  readonly urgency?: Urgency;
  /**
   * Aborts when a reader begins to wait for a fetch that nobody waited for: from then on it is
   * made as if for demand. (Peers may take seconds for what a registry gives in one round trip.)
   */
  readonly awaited?: AbortSignal;
  /**
   * So many stored bytes behind the range are likely to be asked for next, in order: one request may
   * bring those too, which is cheaper than several. Only for what nobody waits for.
   */
  readonly next?: number;
  /** Told before the first byte when it comes with a request that is under way already. */
  readonly onJoined?: () => void;
  /** The READ and the fill that it is for: told in the log with each request, at level trace. */
  readonly traced?: TraceIds;
  /** These bytes came before and were bad: get them from the registry itself, past any peers. */
  readonly avoidPeers?: boolean;
}

/** How ranges of an origin are best cut when nobody waits for them. */
export interface RangeHint {
  /** Whole multiples of it, from whole multiples on (to the blob's end): what peers share. */
  readonly alignBytes: number;
  /** So much at once costs peers much less than piece by piece; more gains little. */
  readonly preferBytes: number;
}

export interface Source {
  /**
   * A manifest or index by tag or digest. `wanted` is either; a digest is verified.
   * Faults: registry_*, manifest_not_found, digest_mismatch, layout_failed, cancelled;
   * image_unsupported where there are no manifests.
   */
  fetchManifest(origin: Origin, wanted: string, options: FetchOptions): Promise<FetchedManifest>;

  /**
   * Streams exactly `extent.length` stored bytes in order to `onPiece`, each byte once,
   * also across retries (a cut connection is resumed where it stopped). A piece is valid
   * only during the call. Resolves after the last byte; rejects having delivered a prefix.
   * `extent` lies within the blob, as far as its size is known. Faults: registry_*,
   * blob_not_found, blob_truncated, layout_failed, directory_failed, deadline_exceeded, cancelled.
   */
  readRange(
    blob: BlobLocation,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    options: FetchOptions,
  ): Promise<void>;

  /**
   * Stored size in bytes, as the source says it; 0 is possible. Faults: those of readRange, so
   * blob_truncated when the descriptor says another size.
   */
  blobSize(blob: BlobLocation, options: FetchOptions): Promise<number>;

  /**
   * What refers to the manifest `subject`, as the source itself lists it: an index document of at
   * most 4 MiB, maybe of artifacts of other types too. Undefined: it keeps no such lists (there
   * may be one under the referrers tag). Faults: registry_*, cancelled.
   */
  fetchReferrers?(
    origin: Origin,
    of: { readonly subject: Digest; readonly artifactType: string },
    options: FetchOptions,
  ): Promise<Uint8Array | undefined>;

  /**
   * For `ahead` and `prefetch` ranges of this origin; undefined: any will do. It changes as peers
   * come and go, so ask for each; every range is served all the same.
   */
  rangeHint?(origin: Origin): RangeHint | undefined;

  /** Closes connections; what is under way is rejected with `stopping`. */
  close(): Promise<void>;
}
