// SPDX-License-Identifier: Apache-2.0
// The prefetches that were asked for: which of them run, how somebody follows one, and that they go
// on after a restart. Images need not be mounted; what is fetched is verified and cached as for a
// reader.
//
//   start -> on disk -> its turn? -> streams opened -> Prefetcher -> done | failed
//
// The same asked for again joins what is under way.

import { randomBytes } from "node:crypto";
import { DaemonError, asDaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { Binding, CookieName } from "../../state/bindings.ts";
import type { PrefetchRecord, PrefetchStore, PrefetchWhat } from "../../state/prefetch-store.ts";
import { isPassing } from "./passing.ts";
import { type TraceReads, traceWhat } from "./find-wanted.ts";
import { type JobParts, PrefetchJob } from "./job.ts";
import { wantedBytes } from "./wanted.ts";

const ACTIVE_MAX = 256;
/** Of those that have ended, the newest are remembered. */
const ENDED_MAX = 64;
const SAMPLE_MS = 1_000;
const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 60_000;
const FLIGHTS_MAX = 4;

export interface PrefetchOptions {
  /** The higher goes first; default 0. */
  readonly priority?: number | undefined;
  /** Bytes a second, 0: no limit (the default). */
  readonly bandwidthLimit?: number | undefined;
  /** Fetches in the air at once while nobody reads, 1 to 8. */
  readonly flightsMax?: number | undefined;
}

export type PrefetchWish =
  | { readonly kind: "all" }
  | { readonly kind: "files"; readonly paths: readonly string[]; readonly globs: readonly string[] }
  | { readonly kind: "trace"; readonly trace: TraceReads };

export interface PrefetchFacts extends PrefetchRecord {
  readonly isRunning: boolean;
  readonly bytesPerSecond: number;
}

export interface PrefetchesParts extends JobParts {
  readonly store: PrefetchStore;
  readonly clock: Clock;
  readonly log: Log;
  readonly unixMs: () => number;
  /** So many run at once; the others wait. */
  readonly runningMax: number;
}

export class Prefetches {
  readonly #parts: PrefetchesParts;
  readonly #jobs = new Map<string, PrefetchJob>();
  readonly #watchers = new Set<(id: string) => void>();
  readonly #stopping = new AbortController();
  #cancelTimer: (() => void) | undefined;

  constructor(parts: PrefetchesParts) {
    this.#parts = parts;
  }

  /** Goes on with what the last daemon left. */
  async load(): Promise<void> {
    const { store, log } = this.#parts;
    const known = await store.load(({ fault, message }) => {
      log.warn({ code: fault.code }, message);
    });
    for (const record of known) this.#jobs.set(record.id, new PrefetchJob(record));
    this.#turn();
  }

  /**
   * Fills what is wished for of an image that is bound. Resolves when it is on disk that it is to
   * be done. Faults: nothing_matches, trace_mismatch, daemon_busy, and those of a source.
   */
  async start(
    image: CookieName & { readonly binding: Binding },
    wish: PrefetchWish,
    options: PrefetchOptions = {},
  ): Promise<PrefetchFacts & { readonly joined: boolean }> {
    const { binding } = image;
    const known = this.#sameAs(image, whatOf(wish, binding));
    if (known !== undefined) {
      const priority = Math.max(known.record.priority, options.priority ?? -Infinity);
      return { ...(await this.change(known.record.id, { ...options, priority })), joined: true };
    }
    const record = this.#recordOf(image, whatOf(wish, binding), options);
    const job = new PrefetchJob(record);
    job.wanted = await this.#parts.findWanted(record, binding, this.#stopping.signal);
    job.record = { ...record, totalBytes: wantedBytes(job.wanted) };
    const meanwhile = this.#sameAs(image, record.what);
    if (meanwhile !== undefined) return { ...this.#factsOf(meanwhile), joined: true };
    if ([...this.#jobs.values()].filter(({ isActive }) => isActive).length >= ACTIVE_MAX) {
      const detail = `${ACTIVE_MAX} prefetches are under way already`;
      throw new DaemonError({ code: "daemon_busy", detail });
    }
    this.#jobs.set(record.id, job);
    try {
      await this.#parts.store.save(job.record);
    } catch (error) {
      this.#jobs.delete(record.id);
      throw error;
    }
    this.#turn();
    return { ...this.#factsOf(job), joined: false };
  }

  /** In the order in which they were asked for. */
  list(): PrefetchFacts[] {
    return [...this.#jobs.values()].map((job) => this.#factsOf(job));
  }

  /** Fault: prefetch_unknown. */
  get(id: string): PrefetchFacts {
    return this.#factsOf(this.#job(id));
  }

  /** True while one that has not ended is about this key. */
  isBusyWith({ volumeKey, cookieKey }: CookieName): boolean {
    return [...this.#jobs.values()].some(({ isActive, record }) => {
      return isActive && record.volumeKey === volumeKey && record.cookieKey === cookieKey;
    });
  }

  /** At once. Fault: prefetch_unknown. */
  async change(id: string, options: PrefetchOptions): Promise<PrefetchFacts> {
    const job = this.#job(id);
    const { priority, bandwidthLimit, flightsMax } = job.record;
    job.record = {
      ...job.record,
      priority: options.priority ?? priority,
      bandwidthLimit: options.bandwidthLimit ?? bandwidthLimit,
      flightsMax: options.flightsMax ?? flightsMax,
    };
    this.#parts.prefetcher.change(id, job.options);
    this.#turn();
    this.#changed(id);
    await this.#parts.store.save(job.record);
    return this.#factsOf(job);
  }

  /** What was fetched stays. One that has ended is forgotten. Fault: prefetch_unknown. */
  async cancel(id: string): Promise<PrefetchFacts> {
    const job = this.#job(id);
    if (job.isActive) {
      await this.#end(job, "cancelled");
    } else {
      this.#jobs.delete(id);
      await this.#parts.store.remove(id);
    }
    return this.#factsOf(job);
  }

  /** How far it is, whenever that changes, until it has ended. Fault: prefetch_unknown. */
  watch(id: string, signal: AbortSignal): AsyncGenerator<PrefetchFacts, void> {
    return this.#following(this.#job(id), AbortSignal.any([signal, this.#stopping.signal]));
  }

  /** Nothing is begun any more; what is under way goes on with the next daemon. */
  stop(error: DaemonError): void {
    this.#stopping.abort(error);
    this.#cancelTimer?.();
    for (const { running } of this.#jobs.values()) running?.abort(error);
  }

  async *#following(job: PrefetchJob, signal: AbortSignal): AsyncGenerator<PrefetchFacts, void> {
    let wake: () => void = () => undefined;
    let isNew = true;
    const changed = (id?: string): void => {
      if (id !== undefined && id !== job.record.id) return;
      isNew = true;
      wake();
    };
    const left = (): void => {
      changed();
    };
    this.#watchers.add(changed);
    signal.addEventListener("abort", left, { once: true });
    try {
      while (!signal.aborted) {
        isNew = false;
        yield this.#factsOf(job);
        if (!job.isActive) return;
        await new Promise<void>((resolve) => {
          wake = resolve;
          if (isNew || signal.aborted) resolve();
        });
      }
    } finally {
      this.#watchers.delete(changed);
      signal.removeEventListener("abort", left);
    }
  }

  /** Those that come first run; who runs and does not any more gives way. */
  #turn(): void {
    const { clock, runningMax } = this.#parts;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#stopping.signal.aborted) return;
    const nowMs = clock.nowMs();
    const ready = [...this.#jobs.values()].filter(({ isActive, retryAtMs }) => {
      return isActive && retryAtMs <= nowMs;
    });
    const ordered = ready.toSorted((a, b) => b.record.priority - a.record.priority);
    for (const job of ordered.slice(runningMax)) {
      job.running?.abort(new DaemonError({ code: "cancelled", what: "its turn" }));
    }
    for (const job of ordered.slice(0, runningMax)) if (job.running === undefined) this.#run(job);
    if (![...this.#jobs.values()].some(({ isActive }) => isActive)) return;
    this.#cancelTimer = clock.after(SAMPLE_MS, () => {
      for (const job of this.#jobs.values()) {
        if (job.running === undefined) continue;
        job.sample(this.#parts, clock.nowMs());
        this.#changed(job.record.id);
      }
      this.#turn();
    });
  }

  #run(job: PrefetchJob): void {
    const run = new AbortController();
    job.running = run;
    void this.#runOnce(job, run.signal)
      .catch((error: unknown) => {
        // The state cannot be written: it is tried again, as after a restart.
        this.#parts.log.error({ id: job.record.id, err: error }, "a prefetch cannot be recorded");
      })
      .finally(() => {
        job.running = undefined;
        this.#turn();
      });
  }

  async #runOnce(job: PrefetchJob, signal: AbortSignal): Promise<void> {
    try {
      const binding = this.#parts.bindingOf(job.record);
      if (binding?.manifestDigest !== job.record.manifestDigest) {
        const detail = "it names another image now, or none";
        throw new DaemonError({ code: "key_unknown", key: job.record.cookieKey, detail });
      }
      await job.run(this.#parts, binding, signal);
      if (!signal.aborted) await this.#end(job, "done");
    } catch (error) {
      if (signal.aborted) return;
      const fault = asDaemonError(error);
      job.failed(fault);
      if (!isPassing(fault)) {
        await this.#end(job, "failed", fault);
        return;
      }
      job.retryMs = Math.min(RETRY_MAX_MS, Math.max(RETRY_FIRST_MS, 2 * job.retryMs));
      job.retryAtMs = this.#parts.clock.nowMs() + job.retryMs;
    }
  }

  async #end(job: PrefetchJob, state: PrefetchRecord["state"], error?: DaemonError): Promise<void> {
    const { store, unixMs, log } = this.#parts;
    const { failure: _, ...rest } = job.record;
    job.record = { ...rest, state, endedAtMs: unixMs() };
    if (error !== undefined) job.failed(error);
    const { id, reference, cachedBytes, totalBytes } = job.record;
    job.running?.abort(new DaemonError({ code: "cancelled", what: `prefetch ${id}` }));
    const facts = { id, reference, state, cachedBytes, totalBytes };
    if (error === undefined) log.info(facts, "a prefetch has ended");
    else log.warn({ ...facts, code: error.fault.code }, `a prefetch failed: ${error.message}`);
    this.#changed(id);
    await store.save(job.record);
    const ended = [...this.#jobs.values()].filter(({ isActive }) => !isActive);
    for (const { record } of ended.slice(0, Math.max(0, ended.length - ENDED_MAX))) {
      this.#jobs.delete(record.id);
      await store.remove(record.id);
    }
  }

  #changed(id: string): void {
    for (const watcher of this.#watchers) watcher(id);
  }

  #job(id: string): PrefetchJob {
    const job = this.#jobs.get(id);
    if (job === undefined) throw new DaemonError({ code: "prefetch_unknown", id });
    return job;
  }

  #sameAs(
    { volumeKey, cookieKey, binding }: CookieName & { binding: Binding },
    what: PrefetchWhat,
  ) {
    const wanted = JSON.stringify(what);
    return [...this.#jobs.values()].find(({ isActive, record }) => {
      return (
        isActive &&
        record.volumeKey === volumeKey &&
        record.cookieKey === cookieKey &&
        record.manifestDigest === binding.manifestDigest &&
        JSON.stringify(record.what) === wanted
      );
    });
  }

  #recordOf(
    { volumeKey, cookieKey, binding }: CookieName & { readonly binding: Binding },
    what: PrefetchWhat,
    { priority = 0, bandwidthLimit = 0, flightsMax = FLIGHTS_MAX }: PrefetchOptions,
  ): PrefetchRecord {
    return {
      id: randomBytes(4).toString("hex"),
      reference: binding.reference,
      volumeKey,
      cookieKey,
      manifestDigest: binding.manifestDigest,
      what,
      priority,
      bandwidthLimit,
      flightsMax,
      createdAtMs: this.#parts.unixMs(),
      state: "active",
      totalBytes: 0,
      cachedBytes: 0,
      fetchedBytes: 0,
    };
  }

  #factsOf(job: PrefetchJob): PrefetchFacts {
    const { record, running, bytesPerSecond } = job;
    return { ...record, isRunning: job.isActive && running !== undefined, bytesPerSecond };
  }
}

function whatOf(wish: PrefetchWish, binding: Binding): PrefetchWhat {
  if (wish.kind === "trace") return traceWhat(wish.trace, binding);
  if (wish.kind === "all") return { kind: "all" };
  return { kind: "files", paths: [...wish.paths], globs: [...wish.globs] };
}
