// SPDX-License-Identifier: Apache-2.0
// A blob as a Node stream, hashed as it comes. A source cannot be slowed down within a range, so
// the blob is fetched in ranges of at most WINDOW_BYTES, the next one only when the reader has
// room: that is what bounds the memory. Most bootstrap layers come in one range.

import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { type DaemonError, asDaemonError } from "../errors.ts";
import { MIB } from "../units.ts";
import type { FetchOptions, SizedBlobLocation, Source } from "./source.ts";

const WINDOW_BYTES = 8 * MIB;
const BUFFERED_BYTES = MIB;
/** What a reader may look at before it reads: a tar's first block. */
const HEAD_BYTES = 512;

export class LayerStream extends Readable {
  readonly #source: Source;
  readonly #layer: SizedBlobLocation;
  readonly #options: FetchOptions;
  readonly #hash = createHash("sha256");
  readonly #headPieces: Buffer[] = [];
  #receivedBytes = 0;
  #window: Promise<void> | undefined;
  #isWanted = false;
  #onProgress: () => void = () => undefined;
  /** What the source failed with: it says more than what the reader makes of it. */
  failure: DaemonError | undefined;

  constructor(source: Source, layer: SizedBlobLocation, options: FetchOptions) {
    super({ highWaterMark: BUFFERED_BYTES });
    this.#source = source;
    this.#layer = layer;
    this.#options = options;
    // Before somebody reads there is nobody to hear of it; `failure` keeps it.
    this.on("error", () => undefined);
  }

  /** The first bytes, still to be read: 512, or all when there are fewer. Faults: the source's. */
  async head(): Promise<Buffer> {
    const wanted = Math.min(HEAD_BYTES, this.#layer.size);
    await new Promise<void>((resolve) => {
      this.#onProgress = () => {
        if (this.#receivedBytes >= wanted || this.failure !== undefined) resolve();
      };
      this.read(0);
    });
    if (this.failure !== undefined) throw this.failure;
    return Buffer.concat(this.#headPieces).subarray(0, wanted);
  }

  /**
   * SHA-256 of the whole blob, in hex: what the reader did not want any more is fetched and
   * forgotten. Call it once the stream has ended or was destroyed. Faults: the source's.
   */
  async digestHex(): Promise<string> {
    // From here on nothing is kept for a reader.
    this.destroy();
    await this.#window;
    while (this.failure === undefined && this.#receivedBytes < this.#layer.size) {
      await this.#fetchWindow();
    }
    if (this.failure !== undefined) throw this.failure;
    return this.#hash.digest("hex");
  }

  override _read(): void {
    this.#isWanted = true;
    if (this.#window === undefined) this.#next();
  }

  #next(): void {
    this.#isWanted = false;
    if (this.#receivedBytes >= this.#layer.size) {
      this.push(null);
      return;
    }
    this.#window = this.#fetchWindow().then(() => {
      this.#window = undefined;
      if (this.failure !== undefined) this.destroy(this.failure);
      else if (this.#receivedBytes >= this.#layer.size) this.push(null);
      else if (this.#isWanted && !this.destroyed) this.#next();
    });
  }

  /** Never rejects: a fault is kept in `failure`. */
  async #fetchWindow(): Promise<void> {
    const offset = this.#receivedBytes;
    const length = Math.min(this.#layer.size - offset, WINDOW_BYTES);
    try {
      await this.#source.readRange(
        this.#layer,
        { offset, length },
        (piece) => {
          // A piece is the source's again after the call.
          const kept = Buffer.from(piece);
          if (this.#receivedBytes < HEAD_BYTES) this.#headPieces.push(kept);
          this.#receivedBytes += piece.length;
          this.#hash.update(piece);
          if (!this.destroyed) this.push(kept);
          this.#onProgress();
        },
        this.#options,
      );
    } catch (error) {
      this.failure = asDaemonError(error);
      this.#onProgress();
    }
  }
}
