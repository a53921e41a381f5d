// SPDX-License-Identifier: Apache-2.0
// Source over a directory whose files are blobs, each named by the 64 hex digits of its digest,
// or over one file that is the blob (nydusd's backend `localfs`: dir, blob_file). There are no
// manifests. Symbolic links are followed: whoever names the directory is the operator.

import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { DaemonError, asDaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Extent } from "../units.ts";
import { isMissing, openRegular, readPieces, storedSize, withBlobFile } from "./blob-file.ts";
import { withBounds } from "./deadline.ts";
import {
  type BlobLocation,
  type FetchedManifest,
  type FetchOptions,
  type Origin,
  type Source,
  formatOrigin,
} from "./source.ts";

export function createDirectorySource(parts: { readonly clock: Clock }): Source {
  return new DirectorySource(parts.clock);
}

class DirectorySource implements Source {
  readonly #clock: Clock;
  readonly #closing = new AbortController();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  fetchManifest(origin: Origin): Promise<FetchedManifest> {
    const detail = "a directory of blobs has no manifests; give the bootstrap as a file";
    const where = formatOrigin(origin);
    return Promise.reject(new DaemonError({ code: "image_unsupported", where, detail }));
  }

  readRange(
    blob: BlobLocation,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    options: FetchOptions,
  ): Promise<void> {
    return this.#borrowed(blob, options, (file, signal) =>
      readPieces({ file, blob, extent, signal, onPiece }),
    );
  }

  blobSize(blob: BlobLocation, options: FetchOptions): Promise<number> {
    return this.#borrowed(blob, options, (file) => storedSize(file, blob));
  }

  close(): Promise<void> {
    this.#closing.abort(new DaemonError({ code: "stopping" }));
    return Promise.resolve();
  }

  #borrowed<T>(
    blob: BlobLocation,
    { deadlineMs, signal }: FetchOptions,
    use: (file: FileHandle, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const signals = [signal, this.#closing.signal];
    const what = `blob ${blob.digest}`;
    return withBounds({ clock: this.#clock, deadlineMs, signals, what }, (scope) =>
      withBlobFile(blob, openBlob, (file) => use(file, scope)),
    );
  }
}

async function openBlob({ origin, digest }: BlobLocation): Promise<FileHandle> {
  const path = origin.blobFile ?? join(origin.repository, digest.slice("sha256:".length));
  try {
    return await openRegular(path);
  } catch (error) {
    if (isMissing(error)) throw error;
    throw asDaemonError(error, (detail) => ({ code: "directory_failed", path, detail }));
  }
}
