// SPDX-License-Identifier: Apache-2.0
// What must hold of fetches in every schedule: which are launched, who is given the next turn, and
// what is in the air. The rules are told here anew, not taken from the planner.

import type { StreamFlow } from "../../../src/flow/stream-flow.ts";
import type { LinkFacts } from "../../../src/planner/link-facts.ts";
import {
  BLOCK_BYTES,
  type Extent,
  KIB,
  MIB,
  alignUp,
  extentEnd,
  overlaps,
} from "../../../src/units.ts";
import type { FlowRig } from "../flow-rig.ts";
import type { ScriptedFetch } from "../scripted-source.ts";
import type { ReaderChecks } from "./reader-checks.ts";
import { type SimulatedStream, partsOf } from "./streams.ts";
import type { SeenTurn, Snapshot, Standing, TurnWatch } from "./turn-watch.ts";
import type { World } from "./world.ts";

const PIECE_MS = 50;
const AIR_MS = 15;
const NEXT_MISS_RTTS = 3 / 2;
const PIECE_BYTES_MIN = 256 * KIB;
/** One fetch for a reader in order: so much, and no more than this part of the memory, half while others fetch. */
const ORDERED_BYTES_MAX = 4 * MIB;
const ORDERED_SHARE = 1 / 8;
/** Of what may be in the air, what may be in the air or not yet written. */
const HELD_FACTOR = 4;
/** Of the memory, what is not kept for demand. */
const BACKGROUND_SHARE = 3 / 4;
const KEPT_FOR_DEMAND = 2;
/** While so much is to come from one host another may always set out, and while more is never. */
const AIR_BYTES_SURE = MIB;
const AIR_BYTES_MAX = 16 * MIB;
const RANK = { demand: 0, ahead: 1, prefetch: 2 } as const;
/** One unit at either end of what is planned may reach beyond it. */
const UNIT_SLACK_BYTES = 10 * BLOCK_BYTES;

/** Tries of the same in this time: at once, after 0, 100, 200 and 400 ms, and some for others. */
const AGAIN_MS = 800;
const AGAIN_MAX = 8;
/** Of these, second ones. */
const SECOND_TRIES_MAX = 5;

export class WireChecks {
  readonly violations: string[] = [];
  readonly #rig: FlowRig;
  readonly #world: World;
  readonly #streams: readonly SimulatedStream[];
  readonly #readers: ReaderChecks;
  watch!: TurnWatch;
  /** An OPEN is looking at a stream's head: fetched whole, whatever is there. */
  isPinning = false;
  /** The engine has just been told to stop, and nobody asks for anything. */
  isStopped = false;
  /** Bytes of read-ahead that were launched for the READ being served. */
  #aheadBytes: number | undefined;

  constructor(of: {
    rig: FlowRig;
    world: World;
    streams: readonly SimulatedStream[];
    readers: ReaderChecks;
  }) {
    this.#rig = of.rig;
    this.#world = of.world;
    this.#streams = of.streams;
    this.#readers = of.readers;
  }

  launching(flow: StreamFlow, extent: Extent, by: Parameters<StreamFlow["launch"]>[1]): void {
    const stream = this.#streams.find(({ record }) => record.digest === flow.stream.digest);
    if (stream === undefined) return;
    const { urgency } = by;
    const what = `${urgency} ${show(extent)}`;
    if (this.#aheadBytes !== undefined && urgency === "ahead") this.#aheadBytes += extent.length;
    if (this.isStopped && urgency !== "prefetch")
      this.#say(`${what} is begun by an engine that stops`);
    if (this.isPinning) return;
    const stored = stream.map?.stored(extent) ?? extent;
    const parts = partsOf(stream, { extent: stored });
    if (parts === undefined) {
      this.#say(`${what} is not of whole units`);
      return;
    }
    if (this.#readers.pausedOf(stream).some((paused) => parts.some((one) => overlaps(one, paused))))
      this.#say(`${what} is fetched in its pause`);
    const isWholeAgain = by.isSecondTry === true && stored.length >= stream.record.size;
    if (!isWholeAgain) this.#checkSingle(stream, what, parts);
    if (by.isSecondTry === true) this.#checkWhole(stream, what, stored);
    if (urgency === "demand") this.#checkSeldom(stream, what, extent);
    const link = this.watch.factsOf(flow.stream.host);
    if (!isWholeAgain) this.#checkNeeded(stream, { what, parts, link });
    // What lies around jumps is a guess; it is watched, as prefetch is.
    const isGuess = urgency === "ahead" && by.watch !== undefined;
    if (parts.length > 1) this.#checkLength(extent, { ...by, what, isGuess, link, stored });
  }

  /** One fetch per unit: none of it is under way, but for what has come and was wrong. */
  #checkSingle(stream: SimulatedStream, what: string, parts: readonly Extent[]): void {
    for (const { turn, extent, streamKey } of this.watch.launches) {
      const isLive = !turn.isGone && !turn.isEnded && !turn.signal.aborted;
      if (!isLive || !streamKey.endsWith(stream.record.digest)) continue;
      const twice = parts.filter((part) => overlaps(part, extent));
      if (twice.every((part) => this.#readers.isWrong(stream, part))) continue;
      this.#say(`${what} is fetched while ${show(extent)} is`);
    }
  }

  /** What has just been refused as a whole is fetched again as a whole, or nothing verifies it. */
  #checkWhole(stream: SimulatedStream, what: string, stored: Extent): void {
    if (stream.map !== undefined || stored.length >= stream.record.size) return;
    const isRefused = this.watch.launches.some(
      ({ lied, streamKey, turn }) =>
        lied && !turn.isReleased && turn.isEnded && streamKey.endsWith(stream.record.digest),
    );
    if (isRefused) this.#say(`${what} is part of what was refused as a whole`);
  }

  /** What is wrong whenever it comes is not asked for all the time. */
  #checkSeldom(stream: SimulatedStream, what: string, { offset, length }: Extent): void {
    const sinceMs = this.#rig.clock.nowMs() - AGAIN_MS;
    const again = this.watch.launches.filter(
      ({ atMs, urgency, extent, streamKey }) =>
        urgency === "demand" &&
        atMs > sinceMs &&
        extent.offset === offset &&
        extent.length === length &&
        streamKey.endsWith(stream.record.digest),
    );
    const second = again.filter(({ isSecondTry }) => isSecondTry);
    const isOften = again.length >= AGAIN_MAX || second.length >= SECOND_TRIES_MAX;
    if (isOften) this.#say(`${what} is fetched again and again`);
  }

  /** Each part is lacking somewhere, or lies in a gap that is cheaper than a request. */
  #checkNeeded(
    stream: SimulatedStream,
    of: { what: string; parts: readonly Extent[]; link: LinkFacts | undefined },
  ): void {
    const needed = of.parts.map((part) => this.#readers.isNeeded(stream, part));
    const { rttMs = 0, bytesPerMs = 0 } = of.link ?? {};
    const gapMax = Math.min((rttMs * bytesPerMs) / 4, PIECE_BYTES_MIN);
    let gapBytes = 0;
    let isInside = false;
    of.parts.forEach(({ length }, index) => {
      if (needed[index] === true) {
        if (gapBytes > 0 && (!isInside || gapBytes > gapMax)) {
          this.#say(`${of.what} brings ${gapBytes / BLOCK_BYTES} blocks that are there`);
        }
        isInside = true;
        gapBytes = 0;
      } else {
        gapBytes += length;
      }
    });
    if (gapBytes > 0)
      this.#say(`${of.what} ends with ${gapBytes / BLOCK_BYTES} blocks that are there`);
  }

  /** More than one unit is fetched at once only within a buffer, in the background within 50 ms. */
  #checkLength(
    extent: Extent,
    of: {
      what: string;
      urgency: string;
      group: object;
      isGuess: boolean;
      link: LinkFacts | undefined;
      stored: Extent;
    },
  ): void {
    const { slabBytes, bytesMax } = this.#rig.slabs;
    const live = [...this.watch.waiting, ...this.watch.held].map(({ turn }) => turn.group);
    const isShared = new Set(live.filter((group) => group !== of.group)).size > 1;
    const share = bytesMax * (isShared ? ORDERED_SHARE / 2 : ORDERED_SHARE);
    const ahead = Math.max(slabBytes, Math.min(ORDERED_BYTES_MAX, share));
    const longest = of.urgency === "ahead" ? ahead : slabBytes;
    if (extent.length > longest) this.#say(`${of.what} is longer than ${longest} bytes`);
    if (of.urgency === "demand") return;
    const { rttMs = 0, bytesPerMs = 0 } = of.link ?? {};
    const ofLink = bytesPerMs * PIECE_MS;
    const piece = Math.min(Math.max(ofLink, PIECE_BYTES_MIN), MIB);
    // More than a quarter only of what the link has nothing else to do for.
    const freeMs = Math.min(rttMs * NEXT_MISS_RTTS, PIECE_MS);
    const guess = Math.min(Math.max(piece / 4, freeMs * bytesPerMs), piece);
    const ordered = Math.min(Math.max(ofLink, MIB), Math.max(ahead, PIECE_BYTES_MIN));
    const max = of.urgency === "prefetch" ? MIB : of.isGuess ? guess : ordered;
    if (of.stored.length > max) this.#say(`${of.what} is ${of.stored.length} bytes, over ${max}`);
  }

  /** Around a READ: how much is read ahead because of it. */
  servedRead(readBytes: number, serve: () => void): void {
    this.#aheadBytes = 0;
    serve();
    const { limits } = this.#world.rig;
    const { windowBytes = 0, windowBytesMax = 0 } = limits;
    const strides = 4 * (readBytes + UNIT_SLACK_BYTES);
    const neighbour = limits.fillsNeighbours === true ? this.#rig.slabs.slabBytes : 0;
    // The window he is in, and the next; both are counted as they are stored.
    const windows = 2 * windowBytesMax * Math.max(...this.#streams.map(expansionOf));
    const window = Math.max(windowBytes, windows, strides);
    const max = window + UNIT_SLACK_BYTES + neighbour;
    if (this.#aheadBytes > max) this.#say(`${this.#aheadBytes} bytes are read ahead, over ${max}`);
    this.#aheadBytes = undefined;
  }

  /** Nobody who should have gone first was waiting. */
  granted(seen: SeenTurn, at: Snapshot): void {
    const { waiting, inAir, lentBytes } = at;
    const me = waiting.find((one) => one.seen === seen);
    if (me === undefined) return;
    const what = `a ${me.urgency} turn of ${me.bytes} bytes`;
    if (!this.#mayGo(me, at)) this.#say(`${what} goes over the limits of ${me.host}`);
    for (const other of waiting) {
      if (other === me || !this.#mayGo(other, at)) continue;
      if (isBefore(other, me, inAir)) this.#say(`${what} goes before a ${other.urgency} turn`);
    }
    if (me.urgency === "demand") return;
    const { slabs } = this.#rig;
    const isAlone = slabs.lentCount === 1;
    if (!isAlone && lentBytes > slabs.bytesMax * BACKGROUND_SHARE) {
      this.#say(`${what} takes memory that is kept for demand`);
    }
  }

  #mayGo(one: Standing, { inAir, held }: Pick<Snapshot, "inAir" | "held">): boolean {
    const { requestsPerHost = 1 } = this.#world.rig.limits;
    const there = inAir.filter(({ host }) => host === one.host);
    if (there.length >= requestsPerHost) return false;
    if (one.urgency === "demand") return true;
    const background = there.filter(({ urgency }) => urgency !== "demand");
    if (background.length >= Math.max(1, requestsPerHost - KEPT_FOR_DEMAND)) return false;
    const max = this.#airMax(one.host);
    const kept = held.filter(({ host, urgency }) => host === one.host && urgency !== "demand");
    const stored = kept.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
    return stored <= HELD_FACTOR * max && bytesOf(there) <= max;
  }

  /** Only what is never too much counts as able to go, and only what always is as not. */
  #airMax(host: string): number {
    const { rttMs, bytesPerMs } = this.watch.factsOf(host) ?? { rttMs: 0, bytesPerMs: 0 };
    const bytes = bytesPerMs * (rttMs + AIR_MS);
    return Math.min(Math.max(bytes, AIR_BYTES_SURE), AIR_BYTES_MAX);
  }

  /** A fetch goes out. */
  began({ options }: Pick<ScriptedFetch, "options">, host: string): void {
    const seen = this.watch.bySignal(options.signal);
    if (options.signal.aborted) this.#say("a fetch goes out that was given up");
    if (seen === undefined) this.#say("a fetch goes out without a turn");
    else if (seen.turn.urgency !== options.urgency) {
      this.#say(`a ${seen.turn.urgency} fetch goes out as ${options.urgency}`);
    }
    const { requestsPerHost = 1 } = this.#world.rig.limits;
    const open = this.#rig.source.open.filter(({ blob }) => blob.origin.host === host).length;
    if (open > requestsPerHost) this.#say(`${open} requests are in the air to ${host}`);
  }

  /** Nothing waits that could go, and no reader waits for what is queued as if nobody did. */
  settled(): void {
    const { waiting, inAir } = this.watch;
    const { slabs } = this.#rig;
    const demand = waiting.filter(({ turn }) => turn.urgency === "demand").map(({ turn }) => turn);
    const able = demand.filter((turn) => {
      const { requestsPerHost = 1 } = this.#world.rig.limits;
      return inAir.filter((one) => one.turn.host === turn.host).length < requestsPerHost;
    });
    const fits = able.every(({ slabBytes }) => slabs.lentBytes === 0 || slabs.hasRoom(slabBytes));
    if (able.length > 0 && fits) this.#say("a demand turn waits that could go");
    for (const { turn, launch } of waiting) {
      if (launch === undefined || turn.urgency === "demand") continue;
      const stream = this.#streams.find(({ record }) => launch.streamKey.endsWith(record.digest));
      if (stream !== undefined && this.#readers.isAwaited(stream, launch.extent)) {
        this.#say(`a reader waits for ${show(launch.extent)}, which waits as ${turn.urgency}`);
      }
    }
  }

  finished(): void {
    const { watch } = this;
    this.#none("turns waiting", watch.waiting.length);
    this.#none("turns in the air", watch.inAir.length);
    this.#none("listeners", watch.listeners);
    if (this.#rig.engine.load.isMemoryShort) this.#say("memory is short at the end");
  }

  #none(what: string, count: number): void {
    if (count > 0) this.#say(`${count} ${what} at the end`);
  }

  #say(what: string): void {
    this.violations.push(what);
  }
}

/** Demand, read-ahead, prefetch; then who has less in the air; then the earlier deadline. */
function isBefore(a: Standing, b: Standing, inAir: readonly Standing[]): boolean {
  const held = ({ group }: Standing): number => bytesOf(inAir.filter((one) => one.group === group));
  const order = [RANK[a.urgency] - RANK[b.urgency], held(a) - held(b), a.deadlineMs - b.deadlineMs];
  return (order.find((difference) => difference !== 0) ?? 0) < 0;
}

/** Logical bytes to a stored one. */
function expansionOf({ map }: SimulatedStream): number {
  if (map === undefined) return 1;
  const all = { offset: 0, length: alignUp(map.sizeBytes, BLOCK_BYTES) };
  return map.sizeBytes / map.stored(all).length;
}

function bytesOf(standings: readonly Standing[]): number {
  return standings.reduce((sum, { bytes }) => sum + bytes, 0);
}

export function show(extent: Extent): string {
  return `${extent.offset / BLOCK_BYTES}-${Math.ceil(extentEnd(extent) / BLOCK_BYTES)}`;
}
