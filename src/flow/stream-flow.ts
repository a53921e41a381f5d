// SPDX-License-Identifier: Apache-2.0
// One stream being served: its open objects and its flights. Whoever needs bytes that are
// already on their way joins that flight, in whatever object or mount they wait.

import { BlockSet } from "../cache/block-set.ts";
import { DaemonError } from "../errors.ts";
import type { CutLimits } from "../image/chunk-map.ts";
import type { KernelObject } from "../kernel/transport.ts";
import { type Way, airBytes, longBytes } from "../planner/link-facts.ts";
import { minus } from "../planner/plan-fill.ts";
import { Neighbourhood } from "../planner/neighbourhood.ts";
import { ReadPattern } from "../planner/read-pattern.ts";
import { BLOCK_BYTES, type Extent, type Urgency, alignDown, alignUp, overlaps } from "../units.ts";
import { FailureMemory } from "./failure-memory.ts";
import type { FetchQueue } from "./fetch-queue.ts";
import { FillRecord } from "./fill-record.ts";
import { Flight } from "./flight.ts";
import type { FetchRange } from "./flight-parts.ts";
import type { LinkMeter } from "./link-meter.ts";
import type { NeighbourFill } from "./neighbour-fill.ts";
import { OpenObject, type Waiter } from "./open-object.ts";
import type { SpareConnections } from "./spare-connections.ts";
import { type HistorySpace, StreamHistory } from "./stream-history.ts";
import { type FlowParts, type Stream, type StreamCounters, patienceMs } from "./stream.ts";
import { WrongBytes, isWrongBytes } from "./wrong-bytes.ts";

/** What all streams share: who fetches when, and how fast their hosts are. */
export interface SharedParts extends FlowParts {
  readonly queue: FetchQueue;
  readonly meter: LinkMeter;
  readonly neighbours: NeighbourFill;
  readonly spares: SpareConnections;
  readonly historySpace: HistorySpace;
  /** Fetches anew what a reader waits for, after what was under way for others has failed. */
  readonly refill: (
    flow: StreamFlow,
    object: OpenObject,
    of: { readonly waiter: Waiter; readonly refused: Extent | undefined },
  ) => void;
}

export interface Launch {
  readonly urgency: Urgency;
  readonly deadlineMs: number;
  /** For whom it is fetched: see planner/pick-next.ts. */
  readonly group: object;
  /** The bytes were wrong once: they are to come another way. */
  readonly isSecondTry?: boolean;
  /** It goes on though readers turn out to jump about. */
  readonly isFirm?: boolean;
  /** What lies behind it is likely to be fetched next. */
  readonly isInOrder?: boolean;
  /** The READ it is made for. */
  readonly cause?: number;
  readonly watch?: FlightWatch;
}

/** Who launches a flight that no reader asked for, and wants to know how it goes. */
export interface FlightWatch {
  /** Stored bytes have come from the source. */
  onBytes(bytes: number): void;
  /** Part of it will never arrive, or could not be written. Not told to anyone else unless a reader waits. */
  onFailure(error: DaemonError): void;
  /** It is over, however it went; its slab is given back. */
  onEnd(): void;
}

/** A stream's first bytes, held while an OPEN looks at them. */
export interface PinnedHead {
  /** The first `bytes` bytes (fewer when the head is shorter); valid until `release`. */
  bytes(bytes: number): Promise<Uint8Array>;
  release(): void;
}

let lastFetch = 0;

export class StreamFlow {
  readonly stream: Stream;
  readonly parts: SharedParts;
  readonly objects = new Set<OpenObject>();
  readonly flights = new Set<Flight>();
  readonly failures: FailureMemory;
  /** What was refused a moment ago, and logged. */
  readonly refusals: FailureMemory;
  readonly wrongBytes: WrongBytes;
  readonly streamEnd: number;
  /** Logical bytes to one stored byte, on average. */
  readonly expansion: number;
  /** What one fetch may carry. */
  readonly fetchMax: CutLimits;

  readonly counters: StreamCounters;
  readonly history: StreamHistory;
  readonly #expected = new Map<object, (extent: Extent) => boolean>();
  readonly #aborted = new WeakSet<Flight>();
  /** As the log tells them apart. */
  readonly #ids = new WeakMap<Flight, number>();

  constructor(stream: Stream, parts: SharedParts, counters: StreamCounters) {
    this.stream = stream;
    this.parts = parts;
    this.counters = counters;
    this.history = new StreamHistory(parts.historySpace);
    this.failures = new FailureMemory(parts.clock);
    this.refusals = new FailureMemory(parts.clock);
    this.wrongBytes = new WrongBytes(parts.clock, patienceMs(parts.limits));
    this.streamEnd = alignUp(stream.map.sizeBytes, BLOCK_BYTES);
    const stored = stream.map.stored({ offset: 0, length: this.streamEnd });
    this.expansion = stored.length === 0 ? 1 : stream.map.sizeBytes / stored.length;
    const { slabBytes } = parts.slabs;
    this.fetchMax = { logicalBytesMax: slabBytes, storedBytesMax: slabBytes };
  }

  /** What one fetch for a reader in order may carry. */
  get orderedMax(): CutLimits {
    const { queue, slabs } = this.parts;
    // What is decoded takes room twice: as it is stored, and as it is read.
    const bytes = this.expansion === 1 ? queue.orderedBytes : queue.orderedBytes / 2;
    const most = Math.max(alignDown(bytes, slabs.slabBytes), slabs.slabBytes);
    return { logicalBytesMax: most, storedBytesMax: most };
  }

  /** To its host, as it is known now. */
  get way(): Way {
    const { host, rangeHint } = this.stream;
    return { link: this.parts.meter.facts(host), shared: rangeHint?.() };
  }

  get isIdle(): boolean {
    return this.objects.size === 0 && this.flights.size === 0;
  }

  /** Until it is called again, what `covers` says yes to is about to be fetched for readers. */
  expect(by: object, covers: ((extent: Extent) => boolean) | undefined): void {
    if (covers === undefined) this.#expected.delete(by);
    else this.#expected.set(by, covers);
  }

  isExpected(extent: Extent): boolean {
    for (const covers of this.#expected.values()) if (covers(extent)) return true;
    return false;
  }

  /** What fetches will bring that are under way, or are made when a pause is over. */
  get inFlight(): Extent[] {
    const promised = [...this.flights].flatMap((flight) => flight.promised);
    return [...promised, ...this.wrongBytes.paused];
  }

  /** True when `object` has all of `extent`, or is being given it. */
  isHeld({ blocks }: OpenObject, extent: Extent): boolean {
    return minus(blocks.missing(extent), this.inFlight).length === 0;
  }

  /** Adds an object the kernel has just opened; flights under way will fill it too. */
  attach(kernel: KernelObject): OpenObject {
    const blocks = new BlockSet(this.stream.map.sizeBytes);
    const { windowBytes, ...limits } = this.parts.limits;
    const { streamEnd } = this;
    const { seesHits } = kernel;
    // The next window is in the air while he reads this one.
    const aheadBytesMax = alignUp(2 * limits.windowBytesMax * this.expansion, BLOCK_BYTES);
    const object = new OpenObject({
      kernel,
      blocks,
      pattern: new ReadPattern({ windowBytes, aheadBytesMax, streamEnd, seesHits }),
      neighbourhood: new Neighbourhood({ windowBytes, streamEnd }),
      clock: this.parts.clock,
      observe: this.parts.observe,
      history: this.history,
    });
    this.objects.add(object);
    for (const flight of this.flights) flight.addTarget(object);
    return object;
  }

  detach(object: OpenObject): void {
    this.objects.delete(object);
    object.close();
    for (const flight of this.flights) flight.removeTarget(object);
    if (this.objects.size === 0) this.wrongBytes.endPauses();
  }

  /** Fetches the first window and keeps its bytes until they are released. */
  pinHead(): PinnedHead {
    const first: Extent = { offset: 0, length: BLOCK_BYTES };
    let flight = [...this.flights].find((known) => overlaps(known.extent, first));
    if (flight === undefined) {
      const { windowBytes } = this.parts.limits;
      const length = Math.min(windowBytes, this.streamEnd, this.parts.slabs.slabBytes);
      const extent = this.stream.map.widen({ offset: 0, length });
      const deadlineMs = this.parts.clock.nowMs() + this.parts.limits.readTimeoutMs;
      flight = this.launch(extent, { urgency: "demand", deadlineMs, group: this });
    }
    const pinned = flight;
    return { bytes: (bytes) => pinned.untilArrived(bytes), release: pinned.pin() };
  }

  /** Starts fetching `extent` for every open object that is ready; it joins `flights` until it ends. */
  launch(
    extent: Extent,
    { watch, cause, isSecondTry = false, isFirm = false, isInOrder = false, ...by }: Launch,
  ): Flight {
    const { map, fetch, host } = this.stream;
    const stored = map.stored(extent);
    this.counters.fetches += 1;
    this.counters.fetchedBytes += stored.length;
    const { clock, log, observe } = this.parts;
    const id = (lastFetch += 1);
    const of = { clock, log, observe, stream: this.stream, urgency: by.urgency };
    const record = new FillRecord({ ...of, id, cause, extent, stored });
    let hasFailed = false;
    const flight: Flight = new Flight({
      ...by,
      extent,
      stored,
      host,
      units: map.units(extent),
      decode: this.stream.decode,
      fetch: record.observed(watch === undefined ? fetch : watched(fetch, watch)),
      queue: this.parts.queue,
      meter: this.parts.meter,
      clock,
      airBytes: () => airBytes(this.way),
      isSecondTry,
      isFirm,
      next: isInOrder ? longBytes(this.way) : 0,
      verify: this.#verifyOf(extent),
      onUnjoinable: () => this.flights.delete(flight),
      onFailure: (rest, error, objects) => {
        hasFailed = true;
        record.failed(rest, error);
        watch?.onFailure(error);
        this.#failed(rest, error, { objects, of: flight });
      },
    });
    this.flights.add(flight);
    this.#ids.set(flight, id);
    for (const object of this.objects) {
      if (object.queued === undefined && object.blocks.missing(extent).length > 0) {
        flight.addTarget(object);
      }
    }
    if (by.urgency === "demand" && this.parts.limits.opensSpares) {
      this.parts.spares.openBeside(this.stream, by.deadlineMs);
    }
    // run() never rejects: its failures come through onFailure.
    const sinceMs = clock.nowMs();
    void flight.run().then(() => {
      record.ended();
      if (!hasFailed) this.wrongBytes.right(extent);
      this.history.filled(extent, by.urgency, { sinceMs, untilMs: clock.nowMs() });
      watch?.onEnd();
    });
    return flight;
  }

  /** `object` waits until `deadlineMs` for what fetches under way bring of `parts`. */
  join(
    object: OpenObject,
    parts: readonly Extent[],
    { deadlineMs, cause }: { readonly deadlineMs: number; readonly cause: number },
  ): void {
    for (const flight of this.flights) {
      const brings = flight.promised.some((one) => parts.some((part) => overlaps(one, part)));
      if (!brings) continue;
      this.parts.log.trace({ miss: cause, fetch: this.#ids.get(flight) }, "joined");
      flight.addTarget(object);
      flight.promote(deadlineMs);
    }
  }

  abort(error: DaemonError): void {
    for (const flight of this.flights) {
      this.#aborted.add(flight);
      flight.abort(error);
    }
    for (const extent of this.wrongBytes.endPauses()) this.#fail(extent, error, [...this.objects]);
  }

  /** Checks a raw stream that is fetched as a whole. */
  #verifyOf(extent: Extent): Stream["verifyWhole"] {
    const { map, verifyWhole } = this.stream;
    return map.stored(extent).length === map.sizeBytes ? verifyWhole : undefined;
  }

  #failed(
    rest: Extent,
    error: DaemonError,
    { objects, of }: { objects: readonly OpenObject[]; of: Flight },
  ): void {
    if (error.fault.code === "cancelled") return;
    // Whatever it failed with, nothing is fetched anew for an engine that stops.
    const isFinal = isOfCache(error) || this.#aborted.has(of);
    if (isFinal || !this.#triesAgain(rest, error, of)) this.#fail(rest, error, objects);
  }

  /**
   * What was not fetched for a reader does not fail one, nor does a fetch who came later and has more
   * time than it had; wrong bytes do when they stay wrong.
   */
  #triesAgain(rest: Extent, error: DaemonError, of: Flight): boolean {
    const isWrong = isWrongBytes(error);
    const isForGood = error.policy.retry === "never" && error.fault.code !== "deadline_exceeded";
    if (of.by.urgency === "demand" && !isWrong && isForGood) return false;
    const [newest] = this.#waitersOf(rest);
    if (newest === undefined) return of.by.urgency !== "demand" || isWrong;
    const refused = isWrong && this.#verifyOf(of.extent) !== undefined ? of.extent : undefined;
    const { sinceMs } = newest.waiter.request;
    const pauseMs = of.by.urgency === "demand" ? this.#pauseMs(rest, { isWrong, of, sinceMs }) : 0;
    if (pauseMs === undefined) return false;
    if (pauseMs === 0) {
      this.#refill(rest, refused);
      return true;
    }
    const { digest, where } = this.stream;
    this.parts.log.warn(
      { code: error.fault.code, stream: digest, from: where, ...rest, delayMs: pauseMs },
      `${error.message}; trying again`,
    );
    this.wrongBytes.pause(rest, pauseMs, () => this.#refill(rest, refused));
    return true;
  }

  /**
   * When a fetch for readers is made again, the newest of whom waits since `sinceMs`; undefined: not
   * at all. Who came late to a fetch that has failed for others may wait for another, which has more
   * time.
   */
  #pauseMs(
    rest: Extent,
    { isWrong, of, sinceMs }: { isWrong: boolean; of: Flight; sinceMs: number },
  ): number | undefined {
    const newest = { isSecondTry: of.by.isSecondTry, newestMs: sinceMs };
    if (isWrong) return this.wrongBytes.noted(rest, newest);
    const { clock, limits } = this.parts;
    const hasMoreTime = sinceMs + patienceMs(limits) > of.by.deadlineMs;
    return hasMoreTime && clock.nowMs() - sinceMs < limits.readTimeoutMs / 2 ? 0 : undefined;
  }

  /** Nobody brings `rest` to these objects. */
  #fail(rest: Extent, error: DaemonError, objects: readonly OpenObject[]): void {
    const { code } = error.fault;
    const ofCache = isOfCache(error);
    if (!ofCache) this.failures.remember(rest, error);
    // Only an OPEN was looking; it reports the fault itself.
    if (objects.length === 0) return;
    let readers = 0;
    for (const object of objects) {
      if (ofCache) object.failures.remember(rest, error);
      readers += object.failWaiters(rest, error);
    }
    this.counters.failedReads += readers;
    this.parts.onFillFailure(
      objects.map((object) => object.kernel.cookieKey),
      error,
    );
    this.parts.log.warn(
      {
        code,
        stream: this.stream.digest,
        from: this.stream.where,
        offset: rest.offset,
        length: rest.length,
        readers,
        hint: error.policy.hint,
      },
      `a fill failed: ${error.message}`,
    );
  }

  #refill(rest: Extent, refused: Extent | undefined): void {
    for (const { object, waiter } of this.#waitersOf(rest)) {
      this.parts.refill(this, object, { waiter, refused });
    }
  }

  /** The newest first: what is fetched for him has time enough for all. */
  #waitersOf(rest: Extent): { readonly object: OpenObject; readonly waiter: Waiter }[] {
    return [...this.objects]
      .flatMap((object) => object.waitersOf(rest).map((waiter) => ({ object, waiter })))
      .sort((a, b) => b.waiter.request.sinceMs - a.waiter.request.sinceMs);
  }
}

function isOfCache({ fault }: DaemonError): boolean {
  return fault.code.startsWith("cache_");
}

function watched(fetch: FetchRange, watch: FlightWatch): FetchRange {
  return (stored, onPiece, options) => {
    const tell = (piece: Uint8Array): void => {
      watch.onBytes(piece.byteLength);
      onPiece(piece);
    };
    return fetch(stored, tell, options);
  };
}
