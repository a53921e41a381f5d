// SPDX-License-Identifier: Apache-2.0
// A source whose every fetch waits for the test: it gives pieces, fails or stalls when told.
// An abort rejects the fetch at once with its reason, as a real source does.

import { cancelledBy } from "../../src/platform/clock.ts";
import type {
  BlobLocation,
  FetchOptions,
  FetchedManifest,
  Source,
} from "../../src/source/source.ts";
import { type Digest, type Extent, extentEnd } from "../../src/units.ts";

export class ScriptedFetch {
  readonly blob: BlobLocation;
  readonly extent: Extent;
  readonly options: FetchOptions;
  readonly #content: Uint8Array;
  readonly #onPiece: (piece: Uint8Array) => void;
  readonly #resolve: () => void;
  readonly #reject: (error: unknown) => void;
  given = 0;
  ended = false;
  /** Ended without having given exactly what was asked. */
  failed = false;
  onEnded: () => void = () => undefined;

  constructor(parts: {
    blob: BlobLocation;
    extent: Extent;
    options: FetchOptions;
    content: Uint8Array;
    onPiece: (piece: Uint8Array) => void;
    resolve: () => void;
    reject: (error: unknown) => void;
  }) {
    this.blob = parts.blob;
    this.extent = parts.extent;
    this.options = parts.options;
    this.#content = parts.content;
    this.#onPiece = parts.onPiece;
    this.#resolve = parts.resolve;
    this.#reject = parts.reject;
  }

  /** Gives the next `bytes` bytes, all that are left by default. */
  give(bytes = this.extent.length - this.given): this {
    const from = this.extent.offset + this.given;
    // A copy: like a network buffer, it is gone after the call.
    const piece = this.#content.slice(from, from + bytes);
    this.given += piece.length;
    this.#onPiece(piece);
    piece.fill(0xee);
    return this;
  }

  /** Gives bytes that are not the blob's. */
  giveBytes(bytes: Uint8Array): this {
    this.given += bytes.length;
    this.#onPiece(bytes);
    return this;
  }

  end(): void {
    this.ended = true;
    this.failed = this.given !== this.extent.length;
    this.onEnded();
    this.#resolve();
  }

  /** Gives what is left and ends. */
  finish(): void {
    this.give().end();
  }

  fail(error: unknown): void {
    this.ended = true;
    this.failed = true;
    this.onEnded();
    this.#reject(error);
  }
}

export class ScriptedSource implements Source {
  readonly fetches: ScriptedFetch[] = [];
  onBegun: (fetch: ScriptedFetch) => void = () => undefined;
  readonly #contents = new Map<Digest, Uint8Array>();

  put(digest: Digest, content: Uint8Array): void {
    this.#contents.set(digest, content);
  }

  get open(): ScriptedFetch[] {
    return this.fetches.filter((fetch) => !fetch.ended);
  }

  fetchManifest(): Promise<FetchedManifest> {
    return Promise.reject(new Error("no manifests here"));
  }

  readRange(
    blob: BlobLocation,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    options: FetchOptions,
  ): Promise<void> {
    const content = this.#contents.get(blob.digest) ?? new Uint8Array(extentEnd(extent));
    if (extent.length === 0 || extentEnd(extent) > (blob.size ?? content.length)) {
      throw new Error(`a range outside the blob: ${extent.offset}+${extent.length}`);
    }
    return new Promise((resolve, reject) => {
      const fetch = new ScriptedFetch({ blob, extent, options, content, onPiece, resolve, reject });
      this.fetches.push(fetch);
      this.onBegun(fetch);
      const { signal } = options;
      const aborted = (): void => {
        fetch.fail(cancelledBy(signal));
      };
      fetch.onEnded = () => signal.removeEventListener("abort", aborted);
      if (signal.aborted) aborted();
      else signal.addEventListener("abort", aborted, { once: true });
    });
  }

  blobSize({ digest, size }: BlobLocation): Promise<number> {
    return Promise.resolve(size ?? this.#contents.get(digest)?.length ?? 0);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
