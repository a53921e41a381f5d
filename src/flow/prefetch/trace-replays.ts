// SPDX-License-Identifier: Apache-2.0
// Looks for a trace of each image that is opened, and replays it. All of it beside the mount and its
// readers: an image without a trace costs one short request, and what goes wrong is logged and over.

import { LRUCache } from "lru-cache";
import { DaemonError, asDaemonError } from "../../errors.ts";
import { type Trace, readTrace } from "../../image/trace-format.ts";
import { type Clock, nextTurn } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { ReplayRead } from "../../planner/plan-replay.ts";
import type { Source } from "../../source/source.ts";
import { type FoundTrace, type ListWay, findTrace } from "../../source/traces.ts";
import type { Binding, Bindings, StreamRecord } from "../../state/bindings.ts";
import type { Engine } from "../engine.ts";
import { streamKey } from "../streams.ts";
import { Replay } from "./replay.ts";

const ASK_TIMEOUT_MS = 10_000;
/** Images that are asked about at once; others go without. */
const ASKED_MAX = 16;
/** What was found is kept for an image that is mounted again, and that there is none, for a while. */
const KNOWN_MAX = 64;
const KNOWN_READS_MAX = 512 * 1024;
/** Of one trace; a program that reads more often has started long ago. */
const READS_MAX = 32 * 1024;
const NONE_MS = 60_000;
const HOSTS_MAX = 256;
const HOST_MS = 3_600_000;

export interface TraceReplaysParts {
  readonly engine: Engine;
  readonly bindings: Pick<Bindings, "all">;
  readonly source: Source;
  readonly clock: Clock;
  readonly log: Log;
}

interface Known {
  /** Undefined: there is none. */
  readonly reads: readonly ReplayRead[] | undefined;
  readonly atMs: number;
}

export class TraceReplays {
  readonly #parts: TraceReplaysParts;
  readonly #stopping = new AbortController();
  /** By the images' manifests. */
  readonly #underWay = new Map<string, Replay | "asking">();
  readonly #known = new LRUCache<string, Known>({
    max: KNOWN_MAX,
    maxSize: KNOWN_READS_MAX,
    sizeCalculation: ({ reads }) => 1 + (reads?.length ?? 0),
  });
  readonly #ways = new LRUCache<string, ListWay>({ max: HOSTS_MAX, ttl: HOST_MS });

  constructor(parts: TraceReplaysParts) {
    this.#parts = parts;
    parts.engine.onOpened((key) => {
      if (!this.#stopping.signal.aborted) this.#opened(key);
    });
  }

  stop(): void {
    this.#stopping.abort(new DaemonError({ code: "stopping" }));
    for (const replay of this.#underWay.values()) if (replay !== "asking") replay.stop();
  }

  #opened(key: string): void {
    for (const { binding } of this.#parts.bindings.all()) {
      const { manifestDigest, stream } = binding;
      if (streamKey(stream) !== key || this.#underWay.has(manifestDigest)) continue;
      if (this.#underWay.size >= ASKED_MAX) return;
      this.#underWay.set(manifestDigest, "asking");
      void this.#replay(binding)
        .catch((error: unknown) => {
          this.#failed(binding, asDaemonError(error));
        })
        .finally(() => this.#underWay.delete(manifestDigest));
    }
  }

  async #replay(binding: Binding): Promise<void> {
    // Whoever opened it goes first.
    await nextTurn();
    const reads = await this.#readsOf(binding);
    if (reads === undefined || this.#stopping.signal.aborted) return;
    const { engine, clock, log } = this.#parts;
    const streamKeys = [binding.stream, ...binding.devices].map(streamKey);
    const replay = new Replay({ engine, clock, streamKeys, reads });
    this.#underWay.set(binding.manifestDigest, replay);
    const startMs = clock.nowMs();
    const replayed = await replay.run();
    if (replayed.requests === 0) return;
    const ms = Math.round(clock.nowMs() - startMs);
    log.info({ reference: binding.reference, ...replayed, ms }, "a trace was replayed");
  }

  async #readsOf(binding: Binding): Promise<readonly ReplayRead[] | undefined> {
    const { clock, source } = this.#parts;
    const { manifestDigest: subject, stream, devices } = binding;
    const known = this.#known.get(subject);
    const nowMs = clock.nowMs();
    if (known?.reads !== undefined) return known.reads;
    if (known !== undefined && nowMs - known.atMs < NONE_MS) return undefined;
    // A Nydus bootstrap is a file here; its blobs are where the image came from.
    const origin = [stream, ...devices].find((each) => each.origin.kind === "registry")?.origin;
    if (origin === undefined) return undefined;
    const { signal } = this.#stopping;
    const deadlineMs = nowMs + ASK_TIMEOUT_MS;
    const options = { signal, deadlineMs, attemptsMax: 1, urgency: "prefetch" } as const;
    // Also when it fails: it is not asked for at each mount then.
    this.#known.set(subject, { reads: undefined, atMs: nowMs });
    const found = await findTrace(source, { origin, subject, ways: this.#ways }, options);
    if (found === undefined) return undefined;
    const reads = await parsed(found, binding);
    this.#known.set(subject, { reads, atMs: nowMs });
    return reads;
  }

  #failed({ reference }: Binding, error: DaemonError): void {
    const { code } = error.fault;
    if (code === "cancelled" || code === "stopping") return;
    this.#parts.log.debug({ reference, code }, `no trace is replayed: ${error.message}`);
  }
}

async function parsed({ bytes, digest }: FoundTrace, binding: Binding): Promise<ReplayRead[]> {
  const { manifestDigest, stream, devices } = binding;
  const where = `the trace ${digest}`;
  const trace = await readTrace(bytes, where, nextTurn);
  if (trace.image?.manifestDigest !== manifestDigest) {
    const detail = `it is of ${trace.image?.reference ?? "no image"}`;
    throw new DaemonError({ code: "trace_invalid", where, detail });
  }
  return readsOn([stream, ...devices], trace);
}

/** In time order, by the image's devices; streams that it does not have are left out. */
function readsOn(records: readonly StreamRecord[], { streams, reads }: Trace): ReplayRead[] {
  const deviceOf = new Map(
    streams.map(({ stream, digest, sizeBytes }) => [
      stream,
      records.findIndex((record) => record.digest === digest && record.size === sizeBytes),
    ]),
  );
  return reads
    .map(({ stream, ...read }) => ({ device: deviceOf.get(stream) ?? -1, ...read }))
    .filter(({ device }) => device >= 0)
    .sort((a, b) => a.ms - b.ms)
    .slice(0, READS_MAX)
    .map(({ device, offset, length }) => ({ device, offset, length }));
}
