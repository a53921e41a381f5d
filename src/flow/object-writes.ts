// SPDX-License-Identifier: Apache-2.0
// Who may write into one object's file next. A file system lets one writer into a file at a time,
// so that what a reader waits for would stand behind whatever was sent before it: bulk goes one
// write at a time, and one more is let in for a reader.

import type { Clock } from "../platform/clock.ts";
import { type Extent, overlaps } from "../units.ts";
import type { FlowObserver } from "./flow-observer.ts";
import type { OpenObject } from "./open-object.ts";

/** What may have bytes for an object: a flight. */
export interface WriteSource {
  /** What lets a reader of `object` go on. */
  urgentRun(object: OpenObject): Extent | undefined;
  /** What else is due. */
  nextRun(object: OpenObject): Extent | undefined;
  /** Never rejects. */
  write(object: OpenObject, run: Extent): Promise<void>;
}

export interface WriteParts {
  readonly clock: Clock;
  readonly observe?: FlowObserver | undefined;
}

const WRITES_MAX = 2;

export class ObjectWrites {
  readonly #object: OpenObject;
  readonly #parts: WriteParts;
  /** In the order they came. */
  readonly #sources = new Set<WriteSource>();
  readonly #underWay = new Set<Extent>();

  constructor(object: OpenObject, parts: WriteParts) {
    this.#object = object;
    this.#parts = parts;
  }

  add(source: WriteSource): void {
    this.#sources.add(source);
  }

  delete(source: WriteSource): void {
    this.#sources.delete(source);
  }

  /** Starts what is due. Called when bytes have come, a reader waits, or a write has ended. */
  pump(): void {
    while (this.#underWay.size < WRITES_MAX && this.#startOne());
  }

  #startOne(): boolean {
    for (const source of this.#sources) {
      const run = source.urgentRun(this.#object);
      if (run !== undefined && !this.#isUnderWay(run)) return this.#start(source, run);
    }
    if (this.#underWay.size > 0) return false;
    for (const source of this.#sources) {
      const run = source.nextRun(this.#object);
      if (run !== undefined) return this.#start(source, run);
    }
    return false;
  }

  #isUnderWay(run: Extent): boolean {
    return [...this.#underWay].some((one) => overlaps(one, run));
  }

  #start(source: WriteSource, run: Extent): true {
    this.#underWay.add(run);
    const { clock, observe } = this.#parts;
    const fromMs = clock.nowMs();
    void source.write(this.#object, run).then(() => {
      observe?.phase("write", clock.nowMs() - fromMs);
      this.#underWay.delete(run);
      this.pump();
    });
    return true;
  }
}
