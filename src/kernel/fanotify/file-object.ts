// SPDX-License-Identifier: Apache-2.0
// One stream that is mounted, or about to be: its cache file, its mark, and who waits for it.
//
//   opening -> open -> (complete: no mark) -> closing -> closed
//
// While a stream is not complete its file is marked, so nobody can read a hole of it unasked.

import { DaemonError } from "../../errors.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../../units.ts";
import type { PendingRequest } from "../pending-request.ts";
import type { KernelObject } from "../transport.ts";
import type { CacheFile } from "./cache-file.ts";
import type { KeyName } from "./names.ts";

export interface FileObjectParts {
  readonly id: number;
  readonly key: KeyName;
  /** As the key was accepted with. */
  readonly sizeBytes: number;
  /** Opened and marked. Its fault is what `write` and `dataExtents` fail with. */
  readonly opening: Promise<CacheFile>;
  /** Counts what is written. */
  readonly writes: { writes: number; writtenBytes: number };
  /** All of the stream is in the file. Told once. */
  readonly onComplete: (object: FileObject) => void;
}

/** One unanswered access, or fill of our own; `refuse` is its answer when the object goes away. */
export interface PendingAccess {
  readonly pending: PendingRequest;
  readonly refuse: (error: DaemonError) => void;
}

export class FileObject implements KernelObject {
  readonly seesHits = true;
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly sizeBytes: number;
  readonly opening: Promise<CacheFile>;
  readonly accesses = new Set<PendingAccess>();
  /** Who wants it open though nobody has it mounted. */
  holds = 0;
  isMarked = false;
  readonly #writes: { writes: number; writtenBytes: number };
  readonly #onComplete: (object: FileObject) => void;
  #streamBytes: number | undefined;
  #isComplete = false;
  #isClosed = false;

  constructor(parts: FileObjectParts) {
    this.id = parts.id;
    this.volumeKey = parts.key.volumeKey;
    this.cookieKey = parts.key.cookieKey;
    this.sizeBytes = parts.sizeBytes;
    this.opening = parts.opening;
    this.#writes = parts.writes;
    this.#onComplete = parts.onComplete;
  }

  get isComplete(): boolean {
    return this.#isComplete;
  }

  async write(
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void> {
    const file = await this.#file();
    await file.write(bytes, range);
    this.#writes.writes += 1;
    this.#writes.writtenBytes += range.length;
    this.#check(file);
  }

  async dataExtents(sizeBytes: number): Promise<Extent[]> {
    const file = await this.#file();
    this.#streamBytes = sizeBytes;
    this.#check(file);
    const end = alignUp(sizeBytes, BLOCK_BYTES);
    return file.extents
      .filter(({ offset }) => offset < end)
      .map(({ offset, length }) => ({ offset, length: Math.min(length, end - offset) }));
  }

  /** No work is taken any more; whoever waits gets `error`. */
  close(error: DaemonError): void {
    this.#isClosed = true;
    for (const { pending, refuse } of this.accesses) {
      pending.preempt(() => {
        refuse(error);
      });
    }
  }

  async #file(): Promise<CacheFile> {
    const file = await this.opening;
    if (!this.#isClosed) return file;
    throw new DaemonError({ code: "cancelled", what: `the cache object "${this.cookieKey}"` });
  }

  // A name's file may be larger than its stream: only as much as the stream has is ever filled.
  #check(file: CacheFile): void {
    if (this.#isComplete || this.#streamBytes === undefined || this.#isClosed) return;
    const all = { offset: 0, length: alignUp(this.#streamBytes, BLOCK_BYTES) };
    if (!file.covers(all)) return;
    this.#isComplete = true;
    this.#onComplete(this);
  }
}
