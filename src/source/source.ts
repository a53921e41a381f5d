// SPDX-License-Identifier: Apache-2.0
// The one interface to stored bytes, whatever keeps them: a registry, an OCI layout
// directory. It knows hosts, repositories and blobs, nothing of streams or readers.

import type { Digest, Extent } from "../units.ts";

/** Where blobs of an image are stored. For a layout, `host` is "oci" and `repository` its absolute path. */
export interface Origin {
  readonly kind: "registry" | "layout";
  readonly host: string;
  readonly repository: string;
}

/** An origin as people write it: `host/repository`, or `oci:PATH`. */
export function formatOrigin({ kind, host, repository }: Origin): string {
  return kind === "layout" ? `${host}:${repository}` : `${host}/${repository}`;
}

export interface BlobLocation {
  readonly origin: Origin;
  readonly digest: Digest;
  /** Stored size in bytes, as the descriptor gives it. An answer that contradicts it is a fault. */
  readonly size: number;
}

export interface FetchedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  /** At most 4 MiB (OCI distribution-spec), and it hashes to `digest`. */
  readonly bytes: Uint8Array;
}

export interface FetchOptions {
  /** Aborting ends the fetch at once; its reason, when a DaemonError, becomes the rejection. */
  readonly signal: AbortSignal;
  /** Absolute time on the source's clock after which no further try is made; the fetch rejects by then. */
  readonly deadlineMs: number;
  /** Tries in all, at most the configured number. 1 means: do not try again. */
  readonly attemptsMax?: number;
}

export interface Source {
  /**
   * A manifest or index by tag or digest. `wanted` is either; a digest is verified.
   * Faults: registry_*, manifest_not_found, digest_mismatch, layout_failed, cancelled.
   */
  fetchManifest(origin: Origin, wanted: string, options: FetchOptions): Promise<FetchedManifest>;

  /**
   * Streams exactly `extent.length` stored bytes in order to `onPiece`, each byte once,
   * also across retries (a cut connection is resumed where it stopped). A piece is valid
   * only during the call. Resolves after the last byte; rejects having delivered a prefix.
   * `extent` lies within the blob. Faults: registry_*, blob_not_found, blob_truncated,
   * layout_failed, deadline_exceeded, cancelled.
   */
  readRange(
    blob: BlobLocation,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    options: FetchOptions,
  ): Promise<void>;

  /** Closes connections; what is under way is rejected with `stopping`. */
  close(): Promise<void>;
}
