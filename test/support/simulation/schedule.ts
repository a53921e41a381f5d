// SPDX-License-Identifier: Apache-2.0
// One schedule of the engine, played step by step on a virtual clock: readers, mounts that come and
// go, prefetch, sources that are slow, cut fetches short, lie, fail and stall, and caches that
// write slowly or not at all. What is checked after each step: reader-checks.ts, wire-checks.ts.

import { DaemonError } from "../../../src/errors.ts";
import type { PinnedHead } from "../../../src/flow/stream-flow.ts";
import { streamKey } from "../../../src/flow/streams.ts";
import { BLOCK_BYTES, type Extent, extentEnd } from "../../../src/units.ts";
import { FakeObject, FakeRead, type WriteRange } from "../fake-kernel.ts";
import { FlowRig, blocks } from "../flow-rig.ts";
import { SimulatedPrefetch } from "./prefetch.ts";
import { ReaderChecks, rootOf } from "./reader-checks.ts";
import { nextRead } from "./readers.ts";
import { SimulatedWire } from "./wire.ts";
import type { Step } from "./steps.ts";
import { type SimulatedStream, noSpace, simulated } from "./streams.ts";
import { TurnWatch } from "./turn-watch.ts";
import { WireChecks, show } from "./wire-checks.ts";
import type { World } from "./world.ts";

/** Objects open at once, about as many as a machine's mounts of one image. */
const OPEN_MAX = 6;
/** Enough for every decode and every deadline. */
const ROUNDS_MAX = 5_000;
const AFTERWARDS_MS = 5_000;

type StepOf<D extends Step["do"]> = Extract<Step, { do: D }>;

export class Schedule {
  readonly trace: string[] = [];
  readonly #world: World;
  readonly #rig: FlowRig;
  readonly #streams: readonly SimulatedStream[];
  readonly #readers: ReaderChecks;
  readonly #checks: WireChecks;
  readonly #watch: TurnWatch;
  readonly #wire: SimulatedWire;
  readonly #prefetch: SimulatedPrefetch;
  readonly #pins: PinnedHead[] = [];

  constructor(world: World) {
    this.#world = world;
    this.#readers = new ReaderChecks(world.rig.limits.readTimeoutMs);
    this.#watch = TurnWatch.begin({
      launching: (flow, extent, by) => {
        this.trace.push(
          `launch ${by.urgency} ${show(extent)} of ${flow.stream.digest.slice(7, 12)}`,
        );
        this.#checks.launching(flow, extent, by);
      },
      granted: (seen, at) => this.#checks.granted(seen, at),
    });
    this.#readers.launches = this.#watch.launches;
    const rig = new FlowRig(world.rig);
    this.#rig = rig;
    this.#readers.pausedOf = ({ record }) =>
      rig.engine.knownFlow(streamKey(record))?.wrongBytes.paused ?? [];
    rig.slabs.onLent = (slab) => this.#watch.lent(slab, rig.slabs.lentBytes);
    const { seed, table } = world;
    this.#streams = world.streams.map((shape) => simulated(rig, shape, seed));
    const of = { rig, world, streams: this.#streams, readers: this.#readers };
    this.#checks = new WireChecks(of);
    this.#checks.watch = this.#watch;
    this.#wire = new SimulatedWire({ ...of, checks: this.#checks, watch: this.#watch });
    this.#prefetch = new SimulatedPrefetch(rig, { streams: this.#streams, table });
  }

  get violations(): string[] {
    const maps = this.#streams.map(({ map }) => map);
    const all = [this.#readers, this.#checks, this.#rig.slabs, ...maps];
    return all.flatMap((one) => one?.violations ?? []);
  }

  async play(steps: readonly Step[]): Promise<void> {
    for (const step of steps) {
      this.trace.push(`${this.#rig.clock.nowMs()} ${step.do}`);
      await this.#do(step);
      await this.#settle(step.thenMs);
      if (this.violations.length > 0) return;
    }
    await this.#finish();
  }

  async #do(step: Step): Promise<void> {
    const object = "object" in step ? this.#object(step.object) : undefined;
    switch (step.do) {
      case "open":
        this.#open(step);
        break;
      case "read":
        if (object !== undefined) this.#read(object, step);
        break;
      case "close":
        if (object !== undefined) this.#close(object);
        break;
      case "vanish":
        at(this.#readers.waiting, step.read)?.withdraw();
        break;
      case "write":
        if (object !== undefined) this.#write(object, step.isFine);
        break;
      case "writes":
        for (const write of object?.writes.splice(0) ?? []) write.finish();
        break;
      case "prefetch":
        this.#prefetch.start(step.rate);
        break;
      case "no prefetch":
        this.#prefetch.cancel();
        break;
      case "stop":
        await this.#stop();
        break;
      case "pin":
        this.#pin(step);
        break;
      case "unpin":
        this.#pins.shift()?.release();
        break;
      case "trust":
        this.#trust(step);
        break;
      case "flow":
        await this.#wire.flow(step.host, step.ms);
        break;
      case "give":
      case "finish":
      case "fail":
      case "short":
      case "long":
      case "lie":
        this.#wire.play(step);
    }
  }

  #object(number: number): FakeObject | undefined {
    return at(
      [...this.#readers.objects.keys()].filter(({ closed }) => !closed),
      number,
    );
  }

  #open({ stream: which, again, cached, listing, lateMs, holdsWrites }: StepOf<"open">): void {
    const stream = at(this.#streams, which);
    const open = [...this.#readers.objects].filter(([{ closed }]) => !closed);
    if (stream === undefined || open.length >= OPEN_MAX) return;
    const object = this.#rig.object(stream.record.size);
    object.holdsWrites = holdsWrites;
    this.#watchWrites(object);
    const last = [...this.#readers.objects].findLast(
      ([one, of]) => of === stream && one.closed,
    )?.[0];
    const extents = again && last !== undefined ? left(last) : someOf(stream, cached);
    for (const extent of extents) object.preload(stream.bytes, extent);
    object.extents = extents;
    if (listing !== "now") this.#readers.unlisted.add(object);
    if (listing === "fails") object.extents = Promise.reject(noSpace());
    if (listing === "late") {
      object.extents = new Promise((resolve) => {
        this.#rig.clock.after(lateMs, () => resolve(extents));
      });
    }
    this.#readers.objects.set(object, stream);
    this.#rig.engine.serve(stream.make(), object);
  }

  #watchWrites(object: FakeObject): void {
    const write = object.write.bind(object);
    object.write = (bytes: Uint8Array, range: WriteRange) => {
      const { fileOffset, length } = range;
      this.trace.push(`write ${show({ offset: fileOffset, length })} of ${object.cookieKey}`);
      this.#readers.checkWrite(object, bytes, range);
      return write(bytes, range);
    };
  }

  #read(object: FakeObject, step: StepOf<"read">): void {
    const shape = at(this.#world.readers, step.reader);
    const extent = shape && nextRead(this.#readers.reads, { object, shape, at: step.at });
    if (extent === undefined) return;
    const { clock, engine } = this.#rig;
    const read = new FakeRead(object, extent, (answered) => {
      const code = rootOf(answered.error)?.fault.code ?? "";
      this.trace.push(`${answered.answer} ${code} ${show(extent)} of ${object.cookieKey}`);
      this.#readers.answered(answered, clock.nowMs());
    });
    this.#readers.asked(read, clock.nowMs());
    this.#checks.servedRead(extent.length, () => engine.read(read));
  }

  #close(object: FakeObject): void {
    for (const read of this.#readers.reads) if (read.object === object) read.withdraw();
    this.#rig.close(object);
  }

  #write(object: FakeObject, isFine: boolean): void {
    const write = object.writes.shift();
    if (write === undefined) return;
    if (isFine) {
      write.finish();
      return;
    }
    this.#readers.failedWrites.add(object);
    write.fail(object.closed ? object.gone() : noSpace());
  }

  async #stop(): Promise<void> {
    this.#readers.stops += 1;
    this.#checks.isStopped = true;
    this.#rig.engine.abort(new DaemonError({ code: "stopping" }));
    await this.#rig.clock.advance(0);
    this.#checks.isStopped = false;
  }

  // What an OPEN does: looks at the first bytes, and holds them for the object to come.
  #pin({ stream: which }: StepOf<"pin">): void {
    const stream = at(this.#streams, which);
    if (stream === undefined || stream.map !== undefined || this.#pins.length > 1) return;
    this.#checks.isPinning = true;
    const head = this.#rig.engine.flowOf(stream.make()).pinHead();
    this.#checks.isPinning = false;
    this.#pins.push(head);
    const wanted = Math.min(100, stream.blob.size);
    const check = (bytes: Uint8Array): void => {
      if (Buffer.compare(bytes, stream.bytes.subarray(0, wanted)) === 0) return;
      if (this.#pins.includes(head)) this.#readers.violations.push("a pinned head has wrong bytes");
    };
    head.bytes(wanted).then(check, () => undefined);
  }

  #trust({ stream, unit, is }: StepOf<"trust">): void {
    const one = at(at(this.#streams, stream)?.map?.all ?? [], unit);
    // What is on its way was vouched for when it was asked for.
    const isUnderWay = one !== undefined && this.#watch.launches.some(({ turn }) => !turn.isEnded);
    if (one !== undefined && (is || !isUnderWay)) one.isTrusted = is;
  }

  async #settle(thenMs: number): Promise<void> {
    const { clock } = this.#rig;
    await clock.advance(0);
    this.#look();
    if (thenMs === 0) return;
    await clock.advance(thenMs);
    this.#wire.expire();
    await clock.advance(0);
    this.#look();
  }

  #look(): void {
    this.#readers.settled();
    this.#checks.settled();
  }

  // Everything that is under way ends well; nobody is late who had time, and nothing is left.
  async #finish(): Promise<void> {
    const { slabs, clock, engine } = this.#rig;
    for (const head of this.#pins.splice(0)) head.release();
    this.#prefetch.stop();
    const inTime = this.#inTime();
    for (let round = 0; round < ROUNDS_MAX && this.#isBusy(); round += 1) {
      for (const fetch of this.#rig.source.open) this.#wire.serve(fetch);
      for (const object of this.#readers.objects.keys()) {
        for (const write of object.writes.splice(0)) write.finish();
      }
      await clock.advance(round < 600 ? 1 : 10);
      this.#look();
      if (this.violations.length > 0) return;
    }
    this.#readers.expectNone("things still under way", this.#isBusy() ? 1 : 0);
    const wasSlow = this.#streams.some(({ map }) => map?.wasSlow === true);
    for (const read of wasSlow ? [] : inTime) {
      if (rootOf(read.error)?.fault.code !== "deadline_exceeded") continue;
      this.#readers.violations.push(`READ ${show(read.extent)} starved`);
    }
    this.#readers.expectNone("READs never answered", this.#readers.waiting.length);
    this.#readers.checkWritten();
    for (const object of this.#readers.objects.keys()) if (!object.closed) this.#close(object);
    await clock.advance(AFTERWARDS_MS);
    this.#readers.expectNone("buffers lent", slabs.lentCount);
    this.#readers.expectNone("timers pending", clock.pendingCount);
    this.#readers.expectNone("READs waiting", engine.waitingReads);
    for (const stream of this.#streams) {
      this.#readers.expectNone("flights left", engine.flowOf(stream.make()).flights.size);
    }
    this.#checks.finished();
  }

  /** READs that have most of their time left, and wait for nothing slow but the source, which will be right. */
  #inTime(): FakeRead[] {
    const nowMs = this.#rig.clock.nowMs();
    return this.#readers.waiting.filter((read) => {
      const leftMs = this.#readers.askedMs(read) + this.#world.rig.limits.readTimeoutMs - nowMs;
      const units = this.#readers.objects.get(read.object)?.map?.touched(read.extent) ?? [];
      const comes = !this.#readers.unlisted.has(read.object) && !units.some(({ isBad }) => isBad);
      return leftMs > 1_200 && comes;
    });
  }

  #isBusy(): boolean {
    const { source, slabs } = this.#rig;
    const isWriting = [...this.#readers.objects.keys()].some(({ writes }) => writes.length > 0);
    const isWaiting = this.#readers.waiting.length > 0;
    return isWriting || isWaiting || source.open.length > 0 || slabs.lentCount > 0;
  }
}

export function at<T>(all: readonly T[], number: number): T | undefined {
  return all[number % Math.max(1, all.length)];
}

/** What a closed object's file holds. */
function left(object: FakeObject): Extent[] {
  const extents: Extent[] = [];
  for (let block = 0; block * BLOCK_BYTES < object.file.length; block += 1) {
    const extent = blocks(block, block + 1);
    if (!object.hasWritten(extent)) continue;
    const before = extents.at(-1);
    if (before !== undefined && extentEnd(before) === extent.offset) {
      extents[extents.length - 1] = { ...before, length: before.length + BLOCK_BYTES };
    } else extents.push(extent);
  }
  return extents;
}

function someOf({ bytes }: SimulatedStream, cached: StepOf<"open">["cached"]): Extent[] {
  if (cached === undefined) return [];
  const count = bytes.length / BLOCK_BYTES;
  const first = Math.floor((count * cached[0]) / 1_000);
  const end = Math.min(count, first + 1 + Math.floor((count * cached[1]) / 1_000));
  if (cached[1] % 2 === 0) return [blocks(first, end)];
  // Here a block and there one: gaps.
  const extents: Extent[] = [];
  const step = 2 + (cached[1] % 5);
  for (let at = first; at < count; at += step) extents.push(blocks(at, at + 1));
  return extents;
}
