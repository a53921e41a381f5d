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
import { PrefetchPace, RateGate, Transfer } from "./pace.ts";
import { isPassing } from "./passing.ts";
import { patienceMs } from "../stream.ts";
import { streamKey } from "../streams.ts";

/** As nydusd's clients ask for it. */
export interface PrefetchJob {
  /** In the image's order: the first is its device 1. */
  readonly devices: readonly StreamRecord[];
  /** File of the RAFS bootstrap. */
  readonly bootstrapPath: string;
  /** Whole devices after the prefetch table's files. */
  readonly all: boolean;
  /** Bytes a second, 0: no limit. */
  readonly bandwidthRate: number;
}

/** What may be changed while it is under way. */
export interface PrefetchPlanOptions {
  /** Bytes a second, 0: no limit. */
  readonly bandwidthRate: number;
  /** The higher goes first; those of the same take turns. */
  readonly priority: number;
  /** In the air at once while nobody reads, 1 to 8. */
  readonly flightsMax: number;
}

/** Parts of an image, in the order in which they are wanted. */
export interface PrefetchPlan {
  /** By the image's device numbers, 0 for the primary one. */
  readonly streams: readonly StreamRecord[];
  readonly extents: AsyncIterator<DeviceExtent, void>;
  /** A fetch has failed; `isGivenUp`: it is not tried again. */
  readonly onFailure: (error: DaemonError, isGivenUp: boolean) => void;
  /** There is nothing left to fetch, or `error` has ended the plan. */
  readonly onEnd: (error: DaemonError | undefined) => void;
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
const FLIGHTS_MAX = 2;
/** A long walk over what is cached lets others run. */
const YIELD_MS = 1;
interface Run {
  readonly key: string;
  readonly cursor: PrefetchCursor;
  readonly pace: PrefetchPace;
  readonly counters: PrefetchCounters;
  readonly plan: PrefetchPlan | undefined;
  /** Of the image that it is for. */
  readonly identity: string;
  all: boolean;
  options: PrefetchPlanOptions;
  isCancelled: boolean;
}

export class Prefetcher {
  readonly #parts: PrefetcherParts;
  readonly #runs = new Map<string, Run>();
  /** What all together may take. */
  readonly #gate = new RateGate();
  #bandwidthRate = 0;
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
    const { tableExtents = prefetchTableExtents } = this.#parts;
    const streams = [undefined, ...job.devices];
    const identity = [job.bootstrapPath, ...job.devices.map(streamKey)].join();
    const options = { bandwidthRate: job.bandwidthRate, priority: 0, flightsMax: FLIGHTS_MAX };
    const known = this.#runs.get(key);
    if (known?.counters.endedAtMs === undefined && known?.identity === identity) {
      known.all = job.all;
      this.change(key, options);
      return;
    }
    const { all, bootstrapPath } = job;
    this.#add({ key, streams, extents: tableExtents(bootstrapPath), all, options, identity });
  }

  /** Fills what the plan says of whatever is open. One of the same key is cancelled. */
  startPlan(key: string, plan: PrefetchPlan, options: PrefetchPlanOptions): void {
    if (this.#isStopped) return;
    const { streams, extents } = plan;
    this.#add({ key, streams, extents, all: false, options, identity: "", plan });
  }

  change(key: string, options: PrefetchPlanOptions): void {
    const run = this.#runs.get(key);
    if (run === undefined) return;
    if (run.options.bandwidthRate !== options.bandwidthRate) run.pace.forgetRate();
    run.options = options;
    this.#pump();
  }

  /** For all together, bytes a second, 0: no limit. */
  limitBandwidth(bytesPerSecond: number): void {
    this.#bandwidthRate = bytesPerSecond;
    this.#gate.forget();
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

  #add(of: {
    readonly key: string;
    readonly streams: readonly (StreamRecord | undefined)[];
    readonly extents: AsyncIterator<DeviceExtent, void>;
    readonly all: boolean;
    readonly options: PrefetchPlanOptions;
    readonly identity: string;
    readonly plan?: PrefetchPlan;
  }): void {
    const { key, streams, extents, all, options, identity, plan } = of;
    const counters = {
      requests: 0,
      bytes: 0,
      workers: 0,
      beganAtMs: undefined,
      endedAtMs: undefined,
    };
    const cursor = new PrefetchCursor({
      engine: this.#parts.engine,
      streamKeys: streams.map((record) => (record === undefined ? undefined : streamKey(record))),
      plan: extents,
      onRead: (error) => {
        if (error !== undefined) this.#planFailed(run, asDaemonError(error));
        this.#pump();
      },
    });
    const pace = new PrefetchPace();
    const state = { all, options, isCancelled: false };
    const run: Run = { key, cursor, pace, counters, plan, identity, ...state };
    this.cancel(key);
    this.#runs.set(key, run);
    this.#pump();
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
      if (this.#inAir >= this.#flightsMax(nowMs, open)) return;
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

  #flightsMax(nowMs: number, runs: readonly Run[]): number {
    const { lastReadMs = -Infinity } = this.#parts.engine.load;
    if (nowMs - Math.max(lastReadMs, this.#busyMs) < IDLE_MS) return 1;
    return Math.max(...runs.map(({ options }) => options.flightsMax));
  }

  /** 0: launched one. Else how long to wait, or undefined when something will call. */
  #launchOne(runs: readonly Run[], nowMs: number): number | undefined {
    if (this.#gate.startMs > nowMs) return this.#gate.startMs - nowMs;
    let soonestMs: number | undefined;
    const wait = (ms: number): void => {
      soonestMs = Math.min(soonestMs ?? Infinity, ms);
    };
    for (const run of runs.toSorted((a, b) => b.options.priority - a.options.priority)) {
      const { cursor, pace, options, counters } = run;
      if (counters.workers >= options.flightsMax) continue;
      if (pace.startMs > nowMs) {
        wait(pace.startMs - nowMs);
        continue;
      }
      const step = cursor.next(this.#flightBytes(run), run.all);
      if (step.kind === "fill") {
        this.#launch(run, step, nowMs);
        return 0;
      }
      if (step.kind === "busy") wait(YIELD_MS);
      if (step.kind === "done" && counters.workers === 0) this.#end(run);
    }
    return soonestMs;
  }

  #flightBytes({ pace, options }: Run): number {
    const rates = [options.bandwidthRate, this.#bandwidthRate].filter((rate) => rate > 0);
    return pace.flightBytes(rates.length === 0 ? 0 : Math.min(...rates));
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
    pace.launched(stored, nowMs, run.options.bandwidthRate);
    this.#gate.launched(stored, nowMs, this.#bandwidthRate);
    const transfer = new Transfer();
    let failure: DaemonError | undefined;
    // As for a READ: a reader who joins gets the cause before it gives up itself.
    const deadlineMs = nowMs + patienceMs(fill.flow.parts.limits);
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
    fill.flow.launch(fill.extent, {
      urgency: "prefetch",
      deadlineMs,
      group: run,
      watch,
      isInOrder: true,
    });
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
    const { code } = failure.fault;
    const isLater = code === "cancelled" || (run.plan !== undefined && isPassing(failure));
    const isKept = cursor.putBack(fill, isLater ? "later" : "failed");
    if (code === "cancelled") return;
    run.plan?.onFailure(failure, !isKept);
    if (!pace.isFailing) {
      this.#parts.log.warn(
        {
          key,
          code,
          from: fill.flow.stream.where,
          hint: failure.policy.hint,
        },
        `prefetch waits, and will try again: ${failure.message}`,
      );
    }
    pace.failed(this.#parts.clock.nowMs());
  }

  #end(run: Run): void {
    const { key, counters, cursor, plan } = run;
    const endedAtMs = this.#unixMs();
    counters.endedAtMs = endedAtMs;
    cursor.close();
    const { bytes, requests, beganAtMs = endedAtMs } = counters;
    this.#parts.log.info({ key, bytes, requests, ms: endedAtMs - beganAtMs }, "prefetch ended");
    plan?.onEnd(undefined);
  }

  #planFailed({ key, plan, cursor }: Run, error: DaemonError): void {
    if (plan !== undefined) {
      cursor.close();
      plan.onEnd(error);
      return;
    }
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
