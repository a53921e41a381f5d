// SPDX-License-Identifier: Apache-2.0
// One object the kernel has open, as flow sees it: what is cached of it and who waits for it.
//
//   loading -> ready -> closed
//
// While loading (the kernel's file is being asked what it holds) reads queue here.

import type { BlockSet } from "../cache/block-set.ts";
import { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { KernelObject } from "../kernel/transport.ts";
import { type Extent, extentEnd, overlaps } from "../units.ts";
import type { Neighbourhood } from "../planner/neighbourhood.ts";
import type { ReadPattern } from "../planner/read-pattern.ts";
import type { StreamHistory } from "./stream-history.ts";
import { FailureMemory } from "./failure-memory.ts";
import type { FlowObserver } from "./flow-observer.ts";
import { ObjectWrites } from "./object-writes.ts";
import type { ServedRead } from "./served-read.ts";

export interface Waiter {
  readonly request: ServedRead;
  readonly cancelDeadline: () => void;
}

export class OpenObject {
  readonly kernel: KernelObject;
  readonly blocks: BlockSet;
  readonly pattern: ReadPattern;
  readonly neighbourhood: Neighbourhood;
  readonly failures: FailureMemory;
  readonly waiters = new Set<Waiter>();
  readonly writes: ObjectWrites;
  /** Reads that came while loading; undefined once ready. */
  queued: Waiter[] | undefined = [];
  readonly #history: StreamHistory;
  readonly #clock: Clock;
  closed = false;

  constructor(parts: {
    readonly kernel: KernelObject;
    readonly blocks: BlockSet;
    readonly pattern: ReadPattern;
    readonly neighbourhood: Neighbourhood;
    readonly clock: Clock;
    readonly observe?: FlowObserver | undefined;
    readonly history: StreamHistory;
  }) {
    this.kernel = parts.kernel;
    this.blocks = parts.blocks;
    this.pattern = parts.pattern;
    this.neighbourhood = parts.neighbourhood;
    this.writes = new ObjectWrites(this, parts);
    this.failures = new FailureMemory(parts.clock);
    this.#history = parts.history;
    this.#clock = parts.clock;
  }

  /** Marks bytes as cached and answers everyone whose extent is now complete. */
  markCached(extent: Extent): void {
    this.blocks.add(extent);
    for (const waiter of this.waiters) {
      if (this.blocks.covers(waiter.request.extent)) {
        this.forget(waiter);
        waiter.request.complete();
      }
    }
  }

  /** Fails everyone who needs a byte of `extent` that is not cached; returns how many that were. */
  failWaiters(extent: Extent, error: DaemonError): number {
    const failed = this.waitersOf(extent);
    for (const waiter of failed) {
      this.forget(waiter);
      waiter.request.fail(error);
    }
    return failed.length;
  }

  /** Who needs a byte of `extent` that is not cached. */
  waitersOf(extent: Extent): Waiter[] {
    return [...this.waiters].filter(({ request }) =>
      this.blocks.missing(request.extent).some((part) => overlaps(part, extent)),
    );
  }

  isAwaiting(extent: Extent): boolean {
    return [...this.waiters].some(({ request }) => overlaps(request.extent, extent));
  }

  /** What impatient readers still need of `extent`, in the order they came. */
  *urgentParts(extent: Extent): Generator<Extent, void> {
    for (const { request } of this.waiters) {
      const offset = Math.max(request.extent.offset, extent.offset);
      const end = Math.min(extentEnd(request.extent), extentEnd(extent));
      if (offset >= end) continue;
      const missing = this.blocks.missing({ offset, length: end - offset });
      const [first] = missing;
      const last = missing.at(-1);
      if (first === undefined || last === undefined) continue;
      yield { offset: first.offset, length: extentEnd(last) - first.offset };
    }
  }

  /** The kernel is done with it: nobody is answered any more. */
  close(): void {
    this.closed = true;
    for (const waiter of [...this.waiters, ...(this.queued ?? [])]) waiter.cancelDeadline();
    this.queued = undefined;
    this.waiters.clear();
  }

  /** It is answered otherwise. */
  forget(waiter: Waiter): void {
    const { request } = waiter;
    const { sinceMs } = request;
    this.#history.waited(request.extent, { sinceMs, untilMs: this.#clock.nowMs() });
    this.waiters.delete(waiter);
    waiter.cancelDeadline();
  }
}
