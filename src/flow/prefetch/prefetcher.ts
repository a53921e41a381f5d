// SPDX-License-Identifier: Apache-2.0
// Fills what nobody has asked for yet, and never at the readers' cost: the files that an image's
// prefetch table names, then, when wanted, its devices from start to end. Only what the kernel
// has open is filled, by flights like any other: verified, fetched once, joined by readers.
//
//   open -> quiet? -> one job's next fetch -> flight -> ended -> quiet? -> ...
//
// Quiet is: no READ waits, none came just now, nothing is in the air for readers. It is looked
// at before every flight, and a flight is so small that who comes while one is in the air
// hardly notices.

import { type DaemonError, asDaemonError } from "../../errors.ts";
import type { DeviceExtent } from "../../image/erofs/inode.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { StreamRecord } from "../../state/bindings.ts";
import type { Engine } from "../engine.ts";
import { type Fill, PrefetchCursor } from "./cursor.ts";
import { prefetchTableExtents } from "./files.ts";
import { PrefetchPace, Transfer } from "./pace.ts";
import { streamKey } from "../streams.ts";

export interface PrefetchJob {
  /** In the image's order: the first is its device 1. */
  readonly devices: readonly StreamRecord[];
  /** File of the RAFS bootstrap with the prefetch table; undefined: whole devices alone. */
  readonly bootstrapPath?: string;
  /** Whole devices after the prefetch table's files. */
  readonly all: boolean;
  /** Bytes a second, 0: no limit. */
  readonly bandwidthRate: number;
}

export interface PrefetchCounters {
  /** Flights launched. */
  requests: number;
  /** Stored bytes that have come. */
  bytes: number;
  /** Flights in the air now. */
  workers: number;
  /** Unix time; undefined before one of its devices is open. */
  beganAtMs: number | undefined;
  /** Unix time; undefined until all is done. */
  endedAtMs: number | undefined;
}

export interface PrefetcherParts {
  readonly engine: Engine;
  readonly clock: Clock;
  readonly log: Log;
  /** Other work that goes before prefetch, such as an OPEN under way. */
  readonly isBusy?: () => boolean;
  readonly unixMs?: () => number;
  /** What the prefetch table of a bootstrap names; faults end only that part of the job. */
  readonly tableExtents?: (bootstrapPath: string) => AsyncIterator<DeviceExtent, void>;
}

/** A reader who thinks between two reads mostly thinks less than this. */
const QUIET_MS = 100;
/** So long after the last READ two flights may be in the air: latency costs half. */
const IDLE_MS = 2_000;
/** A long walk over what is cached lets others run. */
const YIELD_MS = 1;

interface Run {
  readonly key: string;
  readonly cursor: PrefetchCursor;
  readonly pace: PrefetchPace;
  readonly counters: PrefetchCounters;
  job: PrefetchJob;
  isCancelled: boolean;
}

export class Prefetcher {
  readonly #parts: PrefetcherParts;
  readonly #runs = new Map<string, Run>();
  #inAir = 0;
  #busyMs = -Infinity;
  #cancelTimer: (() => void) | undefined;
  #isStopped = false;

  constructor(parts: PrefetcherParts) {
    this.#parts = parts;
    parts.engine.onOpened(() => {
      // Who mounts is about to read.
      this.#busyMs = parts.clock.nowMs();
      this.#pump();
    });
  }

  /** Again with the same key: the options are replaced, and it goes on where it is. */
  start(key: string, job: PrefetchJob): void {
    if (this.#isStopped) return;
    const known = this.#runs.get(key);
    if (known !== undefined && known.counters.endedAtMs === undefined && isSameImage(known, job)) {
      if (known.job.bandwidthRate !== job.bandwidthRate) known.pace.forgetRate();
      known.job = job;
    } else {
      this.cancel(key);
      this.#runs.set(key, this.#makeRun(key, job));
    }
    this.#pump();
  }

  /** Nothing more is launched for it, and its counters are forgotten. What is in the air goes on. */
  cancel(key: string): void {
    const run = this.#runs.get(key);
    if (run === undefined) return;
    this.#runs.delete(key);
    run.isCancelled = true;
    run.cursor.close();
    this.#pump();
  }

  counters(key: string): PrefetchCounters | undefined {
    const counters = this.#runs.get(key)?.counters;
    return counters === undefined ? undefined : { ...counters };
  }

  stop(): void {
    this.#isStopped = true;
    for (const key of this.#runs.keys()) this.cancel(key);
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  #makeRun(key: string, job: PrefetchJob): Run {
    const { engine, tableExtents = prefetchTableExtents } = this.#parts;
    const counters = {
      requests: 0,
      bytes: 0,
      workers: 0,
      beganAtMs: undefined,
      endedAtMs: undefined,
    };
    const cursor = new PrefetchCursor({
      engine,
      streamKeys: job.devices.map((record) => streamKey(record)),
      files: job.bootstrapPath === undefined ? noFiles() : tableExtents(job.bootstrapPath),
      onRead: (error) => {
        if (error !== undefined) this.#tableFailed(key, asDaemonError(error));
        this.#pump();
      },
    });
    return { key, cursor, pace: new PrefetchPace(), counters, job, isCancelled: false };
  }

  /** Launches what may be launched now, and sets a timer for what may be later. */
  #pump(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#isStopped) return;
    for (;;) {
      const nowMs = this.#parts.clock.nowMs();
      const open = [...this.#runs.values()].filter(isUnderWay);
      if (open.length === 0) return;
      for (const { counters } of open) counters.beganAtMs ??= this.#unixMs();
      const quietMs = this.#quietAtMs(nowMs);
      // The end of a flight looks again.
      if (this.#inAir >= this.#flightsMax(nowMs)) return;
      const waitMs = quietMs > nowMs ? quietMs - nowMs : this.#launchOne(open, nowMs);
      if (waitMs === undefined) return;
      if (waitMs > 0) {
        this.#cancelTimer = this.#parts.clock.after(waitMs, () => this.#pump());
        return;
      }
    }
  }

  #quietAtMs(nowMs: number): number {
    const { engine, isBusy } = this.#parts;
    const { waitingReads, flights, lastReadMs, isMemoryShort } = engine.load;
    const isForReaders = waitingReads > 0 || flights > this.#inAir || isMemoryShort;
    if (isForReaders || isBusy?.() === true) this.#busyMs = nowMs;
    return Math.max(this.#busyMs, lastReadMs ?? -Infinity) + QUIET_MS;
  }

  #flightsMax(nowMs: number): number {
    const { lastReadMs = -Infinity } = this.#parts.engine.load;
    return nowMs - Math.max(lastReadMs, this.#busyMs) >= IDLE_MS ? 2 : 1;
  }

  /** 0: launched one. Else how long to wait, or undefined when something will call. */
  #launchOne(runs: readonly Run[], nowMs: number): number | undefined {
    let soonestMs: number | undefined;
    const wait = (ms: number): void => {
      soonestMs = Math.min(soonestMs ?? Infinity, ms);
    };
    for (const run of runs) {
      const { cursor, pace, job } = run;
      if (pace.startMs > nowMs) {
        wait(pace.startMs - nowMs);
        continue;
      }
      const step = cursor.next(pace.flightBytes(job.bandwidthRate), job.all);
      if (step.kind === "fill") {
        this.#launch(run, step, nowMs);
        return 0;
      }
      if (step.kind === "busy") wait(YIELD_MS);
      if (step.kind === "done" && run.counters.workers === 0) this.#end(run);
    }
    return soonestMs;
  }

  #launch(run: Run, fill: Fill, nowMs: number): void {
    const { clock } = this.#parts;
    const { counters, pace } = run;
    // The others' turn is next.
    this.#runs.delete(run.key);
    this.#runs.set(run.key, run);
    this.#inAir += 1;
    counters.workers += 1;
    counters.requests += 1;
    const stored = fill.flow.stream.map.stored(fill.extent).length;
    pace.launched(stored, nowMs, run.job.bandwidthRate);
    const transfer = new Transfer();
    let failure: DaemonError | undefined;
    // As for a READ: a reader who joins gets the cause before it gives up itself.
    const deadlineMs = nowMs + 0.95 * fill.flow.parts.limits.readTimeoutMs;
    const watch = {
      onBytes: (bytes: number) => {
        transfer.took(bytes, clock.nowMs());
        counters.bytes += bytes;
      },
      onFailure: (error: DaemonError) => {
        // What closes an object cancels its flight; a fault says more.
        if (failure === undefined || failure.fault.code === "cancelled") failure = error;
      },
      onEnd: () => {
        this.#inAir -= 1;
        counters.workers -= 1;
        this.#ended(run, fill, { transfer, failure });
        this.#pump();
      },
    };
    fill.flow.launch(fill.extent, { urgency: "prefetch", deadlineMs, group: run, watch });
  }

  #ended(
    run: Run,
    fill: Fill,
    of: { readonly transfer: Transfer; readonly failure: DaemonError | undefined },
  ): void {
    if (run.isCancelled) return;
    const { cursor, pace, key } = run;
    const { failure } = of;
    if (failure === undefined) {
      pace.succeeded(of.transfer);
      return;
    }
    const isCancelled = failure.fault.code === "cancelled";
    cursor.putBack(fill, isCancelled ? "cancelled" : "failed");
    if (isCancelled) return;
    if (!pace.isFailing) {
      this.#parts.log.warn(
        {
          key,
          code: failure.fault.code,
          from: fill.flow.stream.where,
          hint: failure.policy.hint,
        },
        `prefetch waits, and will try again: ${failure.message}`,
      );
    }
    pace.failed(this.#parts.clock.nowMs());
  }

  #end(run: Run): void {
    const { key, counters, cursor } = run;
    const endedAtMs = this.#unixMs();
    counters.endedAtMs = endedAtMs;
    cursor.close();
    const { bytes, requests, beganAtMs = endedAtMs } = counters;
    this.#parts.log.info({ key, bytes, requests, ms: endedAtMs - beganAtMs }, "prefetch ended");
  }

  #tableFailed(key: string, error: DaemonError): void {
    this.#parts.log.warn(
      { key, code: error.fault.code, hint: error.policy.hint },
      `the prefetch table is passed over: ${error.message}`,
    );
  }

  #unixMs(): number {
    return this.#parts.unixMs?.() ?? Date.now();
  }
}

/** It has not ended, and something of it is open. */
function isUnderWay({ counters, cursor }: Run): boolean {
  return counters.endedAtMs === undefined && cursor.isAnyOpen;
}

async function* noFiles(): AsyncGenerator<DeviceExtent, void> {}

function isSameImage({ job }: Run, other: PrefetchJob): boolean {
  const keys = (of: PrefetchJob): string => of.devices.map((record) => streamKey(record)).join();
  return job.bootstrapPath === other.bootstrapPath && keys(job) === keys(other);
}
