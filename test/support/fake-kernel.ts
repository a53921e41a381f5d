// SPDX-License-Identifier: Apache-2.0
// The kernel's side of a door, in memory: objects with a cache file each, and READ and OPEN
// requests that record how they were answered. Answering a request twice throws, as it does
// behind the real door.

import { DaemonError } from "../../src/errors.ts";
import type { KernelObject, OpenRequest, ReadRequest } from "../../src/kernel/transport.ts";
import { BLOCK_BYTES, type Extent, alignUp, extentEnd } from "../../src/units.ts";

export type WriteRange = Parameters<KernelObject["write"]>[1];

/** A native write under way; its bytes are taken from the slab only when it is let through. */
export interface WriteUnderWay {
  readonly range: WriteRange;
  finish(): void;
  fail(error: DaemonError): void;
}

export class FakeObject implements KernelObject {
  readonly seesHits = false;
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly file: Uint8Array;
  readonly #written: Uint8Array;
  /** Writes finish at once unless this is set; then they wait in `writes`. */
  holdsWrites = false;
  readonly writes: WriteUnderWay[] = [];
  writeCount = 0;
  closed = false;
  /** What dataExtents answers: at once, or when the given promise settles. */
  extents: Promise<Extent[]> | Extent[] = [];

  constructor(parts: { id: number; cookieKey: string; sizeBytes: number; volumeKey?: string }) {
    this.id = parts.id;
    this.volumeKey = parts.volumeKey ?? "erofs,erofsd";
    this.cookieKey = parts.cookieKey;
    this.file = new Uint8Array(alignUp(parts.sizeBytes, BLOCK_BYTES));
    this.#written = new Uint8Array(this.file.length / BLOCK_BYTES);
  }

  write(bytes: Uint8Array, range: WriteRange): Promise<void> {
    const whole = [range.bytesOffset, range.length, range.fileOffset].every(
      (value) => value % BLOCK_BYTES === 0,
    );
    if (!whole || range.length === 0) throw new Error(`unaligned write ${JSON.stringify(range)}`);
    if (range.fileOffset + range.length > this.file.length) throw new Error("write past the end");
    this.writeCount += 1;
    if (this.closed) return Promise.reject(this.gone());
    const store = (): void => {
      const piece = bytes.subarray(range.bytesOffset, range.bytesOffset + range.length);
      this.file.set(piece, range.fileOffset);
      const first = range.fileOffset / BLOCK_BYTES;
      this.#written.fill(1, first, first + range.length / BLOCK_BYTES);
    };
    if (!this.holdsWrites) {
      store();
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      this.writes.push({
        range,
        finish: () => {
          store();
          resolve();
        },
        fail: reject,
      });
    });
  }

  async dataExtents(): Promise<Extent[]> {
    return this.extents;
  }

  /** Puts reference bytes into the file, as an earlier mount left them. */
  preload(reference: Uint8Array, extent: Extent): void {
    this.file.set(reference.subarray(extent.offset, extentEnd(extent)), extent.offset);
    const first = extent.offset / BLOCK_BYTES;
    this.#written.fill(1, first, first + extent.length / BLOCK_BYTES);
  }

  hasWritten(extent: Extent): boolean {
    const end = Math.min(extentEnd(extent), this.file.length) / BLOCK_BYTES;
    return this.#written.subarray(extent.offset / BLOCK_BYTES, end).every((block) => block === 1);
  }

  gone(): DaemonError {
    return new DaemonError({ code: "cancelled", what: `the cache object "${this.cookieKey}"` });
  }
}

export type Answer = "waiting" | "complete" | "failed" | "gone";

let lastRead = 0;

export class FakeRead implements ReadRequest {
  readonly id = (lastRead += 1);
  readonly object: FakeObject;
  readonly extent: Extent;
  readonly #onAnswer: ((read: FakeRead) => void) | undefined;
  /** Called instead of throwing when it is answered a second time. */
  onTwice: (() => void) | undefined;
  answer: Answer = "waiting";
  /** Of one that is gone, too. */
  error: DaemonError | undefined;

  constructor(object: FakeObject, extent: Extent, onAnswer?: (read: FakeRead) => void) {
    this.object = object;
    this.extent = extent;
    this.#onAnswer = onAnswer;
  }

  get answered(): boolean {
    return this.answer !== "waiting";
  }

  complete(): void {
    this.#settle("complete", undefined);
  }

  fail(error: DaemonError): void {
    this.#settle("failed", error);
  }

  /** The kernel has closed the object or lost the reader. */
  withdraw(): void {
    if (this.answer === "waiting") this.answer = "gone";
  }

  #settle(answer: Answer, error: DaemonError | undefined): void {
    if (this.answer === "gone") {
      this.error = error;
      return;
    }
    if (this.answer !== "waiting") {
      if (this.onTwice === undefined) throw new Error("a READ was answered twice");
      this.onTwice();
      return;
    }
    this.answer = answer;
    this.error = error;
    this.#onAnswer?.(this);
  }
}

export class FakeOpen implements OpenRequest {
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly #make: (sizeBytes: number) => FakeObject | undefined;
  answer: "waiting" | "accepted" | "refused" = "waiting";
  copenSize: number | undefined;
  object: FakeObject | undefined;
  error: DaemonError | undefined;

  constructor(
    name: { volumeKey: string; cookieKey: string },
    make: (sizeBytes: number) => FakeObject | undefined,
  ) {
    this.volumeKey = name.volumeKey;
    this.cookieKey = name.cookieKey;
    this.#make = make;
  }

  get answered(): boolean {
    return this.answer !== "waiting";
  }

  accept(sizeBytes: number): KernelObject | undefined {
    if (this.answered) throw new Error("an OPEN was answered twice");
    this.answer = "accepted";
    this.copenSize = sizeBytes;
    this.object = this.#make(sizeBytes);
    return this.object;
  }

  refuse(error: DaemonError): void {
    if (this.answered) throw new Error("an OPEN was answered twice");
    this.answer = "refused";
    this.error = error;
  }
}
