// SPDX-License-Identifier: Apache-2.0
// One prefetch that somebody asked for: what is kept of it on disk, how far it is, and one run of it.
//
//   active: waits for its turn, or runs -> done | failed | cancelled

import { type DaemonError, asDaemonError } from "../../errors.ts";
import type { CookieName } from "../../state/bindings.ts";
import type { Binding } from "../../state/bindings.ts";
import type { PrefetchRecord } from "../../state/prefetch-store.ts";
import type { Engine } from "../engine.ts";
import { deviceKey } from "../streams.ts";
import { streamsOf } from "./find-wanted.ts";
import type { Prefetcher } from "./prefetcher.ts";
import { type Wanted, inOrder, wantedBytes } from "./wanted.ts";

/** Opens a stream's cache file though nobody has it mounted. */
export interface StreamHolder {
  /** Faults: those of an OPEN. */
  open(name: CookieName): Promise<{ release(): void }>;
}

export interface JobParts {
  readonly engine: Engine;
  readonly prefetcher: Prefetcher;
  readonly holder: StreamHolder;
  readonly bindingOf: (name: CookieName) => Binding | undefined;
  readonly findWanted: (
    job: PrefetchRecord,
    binding: Binding,
    signal: AbortSignal,
  ) => Promise<Wanted>;
}

/** Seconds over which the speed is measured. */
const SAMPLES_MAX = 10;

export class PrefetchJob {
  record: PrefetchRecord;
  /** Undefined until it is looked up, also after a restart. */
  wanted: Wanted | undefined;
  /** Set while it runs; aborting it ends the run. */
  running: AbortController | undefined;
  /** Not before then, on the clock, after a fault that passes. */
  retryAtMs = 0;
  retryMs = 0;
  #names: readonly CookieName[] = [];
  #fetchedBefore: number;
  #fetchedNow: () => number = () => 0;
  readonly #samples: { atMs: number; bytes: number }[] = [];

  constructor(record: PrefetchRecord) {
    this.record = record;
    this.#fetchedBefore = record.fetchedBytes;
  }

  get isActive(): boolean {
    return this.record.state === "active";
  }

  /** Resolves when all of it has been fetched, as far as it may be. Faults: those of a fill. */
  async run(parts: JobParts, binding: Binding, signal: AbortSignal): Promise<void> {
    const { id, volumeKey, cookieKey } = this.record;
    const held: { release(): void }[] = [];
    try {
      this.#names = [
        { volumeKey, cookieKey },
        ...binding.devices.map((device) => ({ volumeKey, cookieKey: deviceKey(device) })),
      ];
      this.wanted ??= await parts.findWanted(this.record, binding, signal);
      for (const [device, name] of this.#names.entries()) {
        if (this.wanted.sets[device]?.cachedBytes === 0) continue;
        held.push(await parts.holder.open(name));
        signal.throwIfAborted();
      }
      await this.#fetch(parts, binding, signal);
      this.#look(parts);
    } finally {
      this.#fetchedBefore = this.record.fetchedBytes;
      this.#fetchedNow = () => 0;
      parts.prefetcher.cancel(id);
      for (const hold of held) hold.release();
    }
  }

  #fetch({ prefetcher, engine }: JobParts, binding: Binding, signal: AbortSignal): Promise<void> {
    const { record, wanted } = this;
    if (wanted === undefined) throw new Error("nothing is known of what it wants");
    const streams = streamsOf(binding);
    return new Promise((resolve, reject) => {
      const left = (): void => {
        reject(asDaemonError(signal.reason));
      };
      signal.addEventListener("abort", left, { once: true });
      const settle = (end: () => void): void => {
        signal.removeEventListener("abort", left);
        this.#look({ engine });
        end();
      };
      const fail = (error: DaemonError): void => {
        settle(() => {
          reject(error);
        });
      };
      const plan = {
        streams,
        extents: inOrder(wanted),
        onFailure: (error: DaemonError, isGivenUp: boolean) => {
          this.failed(error);
          if (isGivenUp || error.fault.code.startsWith("cache_")) fail(error);
        },
        onEnd: (error: DaemonError | undefined) => {
          if (error === undefined) settle(resolve);
          else fail(error);
        },
      };
      prefetcher.startPlan(record.id, plan, this.options);
      this.#fetchedNow = () => prefetcher.counters(record.id)?.bytes ?? 0;
    });
  }

  get options() {
    const { bandwidthLimit, priority, flightsMax } = this.record;
    return { bandwidthRate: bandwidthLimit, priority, flightsMax };
  }

  failed(error: DaemonError): void {
    const { fault, message, policy } = error;
    const hint = policy.hint === "" ? {} : { hint: policy.hint };
    this.record = { ...this.record, failure: { code: fault.code, message, ...hint } };
  }

  /** How far it is, each second while it runs. */
  sample(parts: Pick<JobParts, "engine">, nowMs: number): void {
    this.#look(parts);
    this.#samples.push({ atMs: nowMs, bytes: this.record.cachedBytes });
    if (this.#samples.length > SAMPLES_MAX) this.#samples.shift();
  }

  get bytesPerSecond(): number {
    const [first] = this.#samples;
    const last = this.#samples.at(-1);
    if (this.running === undefined || first === undefined || last === undefined) return 0;
    if (last.atMs <= first.atMs) return 0;
    return Math.max(0, Math.round(((last.bytes - first.bytes) * 1000) / (last.atMs - first.atMs)));
  }

  // What was open and is not now is counted as it was.
  #look({ engine }: Pick<JobParts, "engine">): void {
    const { wanted } = this;
    if (wanted === undefined) return;
    let cachedBytes = 0;
    for (const [device, name] of this.#names.entries()) {
      const set = wanted.sets[device];
      if (set === undefined || set.cachedBytes === 0) continue;
      const blocks = engine.blocksOf(name.volumeKey, name.cookieKey);
      if (blocks === undefined) return;
      cachedBytes += set.commonBytes(blocks);
    }
    const fetchedBytes = Math.max(
      this.record.fetchedBytes,
      this.#fetchedBefore + this.#fetchedNow(),
    );
    this.record = { ...this.record, totalBytes: wantedBytes(wanted), cachedBytes, fetchedBytes };
  }
}
