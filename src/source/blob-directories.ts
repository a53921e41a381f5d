// SPDX-License-Identifier: Apache-2.0
// Directories of blobs that are looked into before a registry is asked: a NAS that was filled
// beforehand, a disk that came with the machine. Files are named by 64 hex digits or sha256:HEX.
// Their bytes are as untrusted as those of any source; a file that is not right, vanishes or
// breaks off is gone on from at the registry.

import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { LRUCache } from "lru-cache";
import { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import { type Digest, type Extent, extentEnd } from "../units.ts";
import { openRegular, readPieces, storedSize } from "./blob-file.ts";
import { withBounds } from "./deadline.ts";
import { RepeatedReads } from "./repeated-reads.ts";
import { ignoreBecause } from "./ignore.ts";
import type { BlobLocation, Source } from "./source.ts";

const KNOWN_MAX = 10_000;
/** How long a blob counts as not there, or as not to be had from there. */
const ABSENT_MS = 10_000;
const WRONG_MS = 600_000;
const REFUSED_MS = 60_000;
/** A network filesystem that hangs must not hold a reader for long. */
const OPEN_MS = 1_000;

export interface BlobDirectoriesParts {
  readonly clock: Clock;
  /** Absolute, in order. At least one. */
  readonly directories: readonly string[];
  readonly log?: { warn(fields: object, message: string): void };
}

/** `source`, but for what the directories have. */
export function withBlobDirectories(source: Source, parts: BlobDirectoriesParts): Source {
  const directories = new BlobDirectories(parts);
  return {
    fetchManifest: (origin, wanted, options) => source.fetchManifest(origin, wanted, options),
    async readRange(blob, extent, onPiece, options) {
      const { deadlineMs, signal, urgency = "demand", avoidPeers = false } = options;
      const bounds = {
        clock: parts.clock,
        deadlineMs,
        signals: [signal],
        what: `blob ${blob.digest}`,
      };
      const offset = await withBounds(bounds, (scope) =>
        directories.read(blob, extent, onPiece, {
          signal: scope,
          isDemand: urgency === "demand",
          wasBad: avoidPeers,
        }),
      );
      const rest = { offset, length: extentEnd(extent) - offset };
      if (rest.length > 0) await source.readRange(blob, rest, onPiece, options);
    },
    async blobSize(blob, options) {
      return (await directories.size(blob)) ?? (await source.blobSize(blob, options));
    },
    fetchReferrers: async (origin, of, options) => source.fetchReferrers?.(origin, of, options),
    rangeHint: (origin) => source.rangeHint?.(origin),
    close: () => source.close(),
  };
}

interface ReadTerms {
  readonly signal: AbortSignal;
  readonly isDemand: boolean;
  /** These bytes came before, and were bad. */
  readonly wasBad: boolean;
}

class BlobDirectories {
  readonly #parts: BlobDirectoriesParts;
  /** Until when they are not asked for a blob. */
  readonly #passedBy = new LRUCache<Digest, number>({ max: KNOWN_MAX });
  readonly #repeats: RepeatedReads;

  constructor(parts: BlobDirectoriesParts) {
    this.#parts = parts;
    this.#repeats = new RepeatedReads(parts.clock);
  }

  /** Resolves with the offset up to which it gave bytes; rejects when aborted, or as `onPiece` does. */
  async read(
    blob: BlobLocation,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    { signal, isDemand, wasBad }: ReadTerms,
  ): Promise<number> {
    const { digest } = blob;
    // Read-ahead may ask for whole pieces, of which some is here.
    if (wasBad || (isDemand && this.#repeats.asked(digest, extent))) {
      this.#passBy(digest, REFUSED_MS);
      this.#parts.log?.warn({ digest }, "bytes from a directory of blobs were refused; not used");
    }
    const file = await this.#open(blob);
    let offset = extent.offset;
    if (file === undefined) return offset;
    const count = (piece: Uint8Array): void => {
      offset += piece.length;
      onPiece(piece);
    };
    try {
      await readPieces({ file, blob, extent, signal, onPiece: count });
      this.#repeats.served(digest, extent);
    } catch (error) {
      if (signal.aborted || !isOfFile(error)) throw error;
      this.#passBy(digest, WRONG_MS);
      const { message } = error;
      this.#parts.log?.warn({ digest }, `${message}; going on at the registry`);
    } finally {
      await file.close();
    }
    return offset;
  }

  async size(blob: BlobLocation): Promise<number | undefined> {
    const file = await this.#open(blob);
    if (file === undefined) return undefined;
    try {
      return await storedSize(file, blob);
    } catch {
      return undefined;
    } finally {
      await file.close();
    }
  }

  /** The first file there is; undefined when there is none, or no answer in time. */
  async #open({ digest }: BlobLocation): Promise<FileHandle | undefined> {
    const { clock } = this.#parts;
    if ((this.#passedBy.get(digest) ?? 0) > clock.nowMs()) return undefined;
    const opening = this.#openFirst(digest);
    let isLate = false;
    const file = await new Promise<FileHandle | undefined>((resolve) => {
      const cancel = clock.after(OPEN_MS, () => {
        isLate = true;
        resolve(undefined);
      });
      void opening.then((opened) => {
        cancel();
        resolve(opened);
      });
    });
    if (file !== undefined) return file;
    this.#passBy(digest, ABSENT_MS);
    if (isLate) {
      this.#parts.log?.warn(
        { digest },
        "a directory of blobs does not answer; asking the registry",
      );
      ignoreBecause(
        "nobody waits for this file any more",
        opening.then((late) => late?.close()),
      );
    }
    return undefined;
  }

  /** Never rejects. */
  async #openFirst(digest: Digest): Promise<FileHandle | undefined> {
    const hex = digest.slice("sha256:".length);
    const paths = this.#parts.directories.flatMap((each) => [join(each, hex), join(each, digest)]);
    for (const path of paths) {
      const file = await openRegular(path).catch(() => undefined);
      if (file !== undefined) return file;
    }
    return undefined;
  }

  #passBy(digest: Digest, durationMs: number): void {
    this.#passedBy.set(digest, this.#parts.clock.nowMs() + durationMs);
  }
}

/** A file that is too short, or that cannot be read any more. */
function isOfFile(error: unknown): error is Error {
  if (error instanceof DaemonError) return error.fault.code === "blob_truncated";
  return error instanceof Error && "syscall" in error;
}
