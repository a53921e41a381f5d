// SPDX-License-Identifier: Apache-2.0
// The fill engine: all streams being served and the objects the kernel has open on them.
// It is handed its clock, its source and its buffers, so a test can drive it.

import { LRUCache } from "lru-cache";
import type { BlockSet } from "../cache/block-set.ts";
import { DaemonError } from "../errors.ts";
import type { KernelObject, ReadRequest } from "../kernel/transport.ts";
import type { Extent } from "../units.ts";
import type { OpenObject } from "./open-object.ts";
import { FetchQueue } from "./fetch-queue.ts";
import { LinkMeter } from "./link-meter.ts";
import { NeighbourFill } from "./neighbour-fill.ts";
import { SpareConnections } from "./spare-connections.ts";
import { queuedRead, refill, serveRead } from "./serve-request.ts";
import { ServedRead } from "./served-read.ts";
import { type SharedParts, StreamFlow } from "./stream-flow.ts";
import { HistorySpace } from "./stream-history.ts";
import type { FlowParts, Stream, StreamCounters } from "./stream.ts";

export interface OpenObjectFacts {
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly cachedBytes: number;
  readonly sizeBytes: number;
}

/** What readers are about, for work that must not cost them anything. */
export interface EngineLoad {
  readonly waitingReads: number;
  /** Flights of streams that are open, whoever began them. */
  readonly flights: number;
  /** When the last READ came; undefined before the first. */
  readonly lastReadMs: number | undefined;
  readonly isMemoryShort: boolean;
}

const COUNTERS_MAX = 4096;

interface Served {
  readonly flow: StreamFlow;
  readonly object: OpenObject;
}

export class Engine {
  readonly #parts: SharedParts;
  readonly #flows = new Map<string, StreamFlow>();
  readonly #served = new Map<KernelObject, Served>();
  /** They outlive the flows, which end when nobody has their stream open. */
  readonly #counters = new LRUCache<string, StreamCounters>({ max: COUNTERS_MAX });

  readonly #onOpened: ((streamKey: string) => void)[] = [];
  #lastReadMs: number | undefined;
  /**
   * Told of every READ of an open object before it is served; for a trace. True: nothing is read
   * ahead of it, since the kernel asks for nothing that it has.
   */
  readObserver: ((stream: Stream, request: ReadRequest) => boolean) | undefined;

  constructor(parts: FlowParts) {
    const meter = new LinkMeter();
    const { requestsPerHost } = parts.limits;
    const queue = new FetchQueue(parts.slabs, parts.clock, { requestsPerHost });
    const neighbours = new NeighbourFill(parts.clock);
    const spares = new SpareConnections({ clock: parts.clock, queue, meter });
    const historySpace = new HistorySpace();
    this.#parts = { ...parts, queue, meter, neighbours, spares, historySpace, refill };
  }

  /** `listener` is told of every object that has become ready to be filled. */
  onOpened(listener: (streamKey: string) => void): void {
    this.#onOpened.push(listener);
  }

  /** The flow of a stream, one for all its objects. It is forgotten when nothing is open on it. */
  flowOf(stream: Stream): StreamFlow {
    const known = this.#flows.get(stream.key);
    // An idle one is made anew: its bytes may come from another origin now.
    if (known !== undefined && !known.isIdle) {
      if (known.stream.map.sizeBytes === stream.map.sizeBytes) return known;
      throw new DaemonError({
        code: "image_invalid",
        where: stream.where,
        detail: `blob ${stream.digest} is ${stream.map.sizeBytes} bytes here, and ${known.stream.map.sizeBytes} in an image that is mounted`,
      });
    }
    const flow = new StreamFlow(stream, this.#parts, this.countersOf(stream.key));
    for (const [key, other] of this.#flows) {
      if (!other.isIdle) continue;
      this.#flows.delete(key);
      other.history.forget();
    }
    this.#flows.set(stream.key, flow);
    return flow;
  }

  countersOf(streamKey: string): StreamCounters {
    const known = this.#counters.get(streamKey);
    if (known !== undefined) return known;
    const made = { reads: 0, readBytes: 0, failedReads: 0, fetchedBytes: 0, fetches: 0 };
    this.#counters.set(streamKey, made);
    return made;
  }

  /** The stream of this key that objects are open on, if any. */
  liveStream(key: string): Stream | undefined {
    const flow = this.#flows.get(key);
    return flow === undefined || flow.isIdle ? undefined : flow.stream;
  }

  /** The flow of this key, whatever is open on it. */
  knownFlow(key: string): StreamFlow | undefined {
    return this.#flows.get(key);
  }

  /** The flow of this key, when an object that can be filled is open on it. */
  openFlow(key: string): StreamFlow | undefined {
    const flow = this.#flows.get(key);
    const isReady = [...(flow?.objects ?? [])].some(({ queued }) => queued === undefined);
    return isReady ? flow : undefined;
  }

  /** Asks the source for the last byte: true when the raw stream's blob is as long as it says. */
  async confirmSize({ map, fetch }: Stream): Promise<boolean> {
    const { clock, limits } = this.#parts;
    const signal = new AbortController().signal;
    const deadlineMs = clock.nowMs() + limits.readTimeoutMs;
    try {
      const last = { offset: map.sizeBytes - 1, length: 1 };
      await fetch(last, () => undefined, { signal, deadlineMs });
      return true;
    } catch {
      return false;
    }
  }

  /** Makes connections to the stream's host, before its first reader needs them. */
  approach(stream: Stream): void {
    const { clock, limits, spares } = this.#parts;
    if (limits.opensSpares) spares.openAhead(stream, clock.nowMs() + limits.readTimeoutMs);
  }

  /** Starts serving an object that the kernel has just opened. */
  serve(stream: Stream, kernel: KernelObject): void {
    const flow = this.flowOf(stream);
    const served = { flow, object: flow.attach(kernel) };
    this.#served.set(kernel, served);
    void this.#load(served);
  }

  read(asked: ReadRequest): void {
    this.#lastReadMs = this.#parts.clock.nowMs();
    const served = this.#served.get(asked.object);
    if (served === undefined) {
      asked.fail(new DaemonError({ code: "cancelled", what: "a read of a closed object" }));
      return;
    }
    const request = new ServedRead(asked, served.flow.stream, this.#parts);
    served.flow.counters.reads += 1;
    served.flow.counters.readBytes += request.extent.length;
    request.isRecorded = this.readObserver?.(served.flow.stream, request) ?? false;
    if (served.object.queued === undefined) {
      serveRead(served.flow, served.object, request);
    } else {
      served.object.queued.push(queuedRead(served.flow, served.object, request));
    }
  }

  closed(kernel: KernelObject): void {
    const served = this.#served.get(kernel);
    if (served === undefined) return;
    this.#served.delete(kernel);
    served.flow.detach(served.object);
    this.#parts.log.info(
      { key: kernel.cookieKey, cachedBytes: served.object.blocks.cachedBytes },
      "object closed",
    );
  }

  isOpen(volumeKey: string, cookieKey: string): boolean {
    for (const kernel of this.#served.keys()) {
      if (kernel.volumeKey === volumeKey && kernel.cookieKey === cookieKey) return true;
    }
    return false;
  }

  /** What is cached of an object that can be filled; undefined when there is none of this name. */
  blocksOf(volumeKey: string, cookieKey: string): BlockSet | undefined {
    for (const [kernel, { object }] of this.#served) {
      if (kernel.volumeKey !== volumeKey || kernel.cookieKey !== cookieKey) continue;
      if (object.queued === undefined) return object.blocks;
    }
    return undefined;
  }

  get openObjects(): readonly OpenObjectFacts[] {
    return [...this.#served].map(([kernel, { flow, object }]) => ({
      volumeKey: kernel.volumeKey,
      cookieKey: kernel.cookieKey,
      cachedBytes: object.blocks.cachedBytes,
      sizeBytes: flow.stream.map.sizeBytes,
    }));
  }

  /** READs that the kernel waits for. */
  *waiting(): Iterable<{ cookieKey: string; extent: Extent; sinceMs: number }> {
    for (const [{ cookieKey }, { object }] of this.#served) {
      for (const { request } of [...object.waiters, ...(object.queued ?? [])]) {
        yield { cookieKey, extent: request.extent, sinceMs: request.sinceMs };
      }
    }
  }

  get waitingReads(): number {
    let count = 0;
    for (const { object } of this.#served.values()) {
      count += object.waiters.size + (object.queued?.length ?? 0);
    }
    return count;
  }

  /** Of what is opened from now on; `windowBytesMax` is not the smaller one. */
  setWindows(windowBytes: number, windowBytesMax: number): void {
    Object.assign(this.#parts.limits, { windowBytes, windowBytesMax });
  }

  get load(): EngineLoad {
    let flights = 0;
    for (const flow of this.#flows.values())
      if (flow.objects.size > 0) flights += flow.flights.size;
    return {
      waitingReads: this.waitingReads,
      flights,
      lastReadMs: this.#lastReadMs,
      isMemoryShort: this.#parts.queue.isShort,
    };
  }

  /** Cancels every fetch; whoever waits for one is failed with `error`. */
  abort(error: DaemonError): void {
    this.#parts.spares.stop();
    this.#parts.neighbours.stop();
    for (const flow of this.#flows.values()) flow.abort(error);
  }

  // loading -> ready. What cannot be listed counts as not cached: fetched again, never trusted.
  async #load({ flow, object }: Served): Promise<void> {
    try {
      const extents = await object.kernel.dataExtents(flow.stream.map.sizeBytes);
      for (const extent of extents) object.blocks.add(extent);
      for (const flight of flow.flights) {
        if (object.blocks.covers(flight.extent)) flight.removeTarget(object);
      }
    } catch (error) {
      if (object.closed) return;
      this.#parts.log.warn(
        { key: object.kernel.cookieKey, err: error },
        "cannot see what the cache file holds: all of it is fetched again",
      );
    }
    const queued = object.queued ?? [];
    object.queued = undefined;
    if (object.closed) return;
    this.#parts.log.debug(
      { key: object.kernel.cookieKey, cachedBytes: object.blocks.cachedBytes },
      "object ready",
    );
    for (const { request, cancelDeadline } of queued) {
      cancelDeadline();
      if (!request.answered) serveRead(flow, object, request);
    }
    for (const listener of this.#onOpened) listener(flow.stream.key);
  }
}
