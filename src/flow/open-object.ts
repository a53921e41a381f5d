// SPDX-License-Identifier: Apache-2.0
// One object the kernel has open, as flow sees it: what is cached of it and who waits for it.
//
//   loading -> ready -> closed
//
// While loading (the kernel's file is being asked what it holds) reads queue here.

import type { BlockSet } from "../cache/block-set.ts";
import { DaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { KernelObject, ReadRequest } from "../kernel/transport.ts";
import { type Extent, extentEnd } from "../units.ts";
import { FailureMemory, overlaps } from "./failure-memory.ts";

export interface Waiter {
  readonly request: ReadRequest;
  /** A sequential reader, which loses nothing when its answer waits for the whole window. */
  readonly patient: boolean;
  /** When it began to wait, on the engine's clock. */
  readonly sinceMs: number;
  readonly cancelDeadline: () => void;
}

export class OpenObject {
  readonly kernel: KernelObject;
  readonly blocks: BlockSet;
  readonly failures: FailureMemory;
  readonly waiters = new Set<Waiter>();
  /** Reads that came while loading; undefined once ready. */
  queued: Waiter[] | undefined = [];
  closed = false;
  /** End of the last read asked for; a read that starts there goes on sequentially. */
  lastReadEnd = -1;

  constructor(kernel: KernelObject, blocks: BlockSet, clock: Clock) {
    this.kernel = kernel;
    this.blocks = blocks;
    this.failures = new FailureMemory(clock);
  }

  /** Marks bytes as cached and answers everyone whose extent is now complete. */
  markCached(extent: Extent): void {
    this.blocks.add(extent);
    for (const waiter of this.waiters) {
      if (this.blocks.covers(waiter.request.extent)) {
        this.#remove(waiter);
        waiter.request.complete();
      }
    }
  }

  /** Fails everyone who needs a byte of `extent` that is not cached; returns how many that were. */
  failWaiters(extent: Extent, error: DaemonError): number {
    let failed = 0;
    for (const waiter of this.waiters) {
      const needed = this.blocks.missing(waiter.request.extent);
      if (needed.some((part) => overlaps(part, extent))) {
        this.#remove(waiter);
        waiter.request.fail(error);
        failed += 1;
      }
    }
    return failed;
  }

  isAwaiting(extent: Extent): boolean {
    return [...this.waiters].some(({ request }) => overlaps(request.extent, extent));
  }

  /** The farthest byte up to `arrivedEnd` that completes an impatient waiter's bytes in `extent`; 0 when none does. */
  urgentEnd(extent: Extent, arrivedEnd: number): number {
    let urgent = 0;
    for (const waiter of this.waiters) {
      if (waiter.patient || !overlaps(waiter.request.extent, extent)) continue;
      const end = Math.min(extentEnd(waiter.request.extent), extentEnd(extent));
      if (end <= arrivedEnd && end > urgent) urgent = end;
    }
    return urgent;
  }

  /** The kernel is done with it: nobody is answered any more. */
  close(): void {
    this.closed = true;
    for (const waiter of [...this.waiters, ...(this.queued ?? [])]) waiter.cancelDeadline();
    this.queued = undefined;
    this.waiters.clear();
  }

  #remove(waiter: Waiter): void {
    this.waiters.delete(waiter);
    waiter.cancelDeadline();
  }
}
