// SPDX-License-Identifier: Apache-2.0
// One schedule of the engine, drawn from a seed: readers, objects that open and close, prefetch, a
// source that is slow, cuts fetches short, fails and stalls, units that are bad or take their time
// to decode, and a cache that writes slowly or not at all. Time is virtual; what happens next is
// always drawn from the seed, so one seed is one run.
//
// Survived must be: any order of pieces, decodes and writes; fetches that resolve short, fail,
// stall, give too much, or (of units) wrong bytes; units that are bad; writes that fail; objects
// closing and everything being cancelled at any moment, decodes and writes still under way.
// Checked: see simulation-checks.ts.

import { DaemonError } from "../../src/errors.ts";
import type { Prefetcher } from "../../src/flow/prefetch/prefetcher.ts";
import type { PinnedHead } from "../../src/flow/stream-flow.ts";
import { BLOCK_BYTES, type Extent, extentEnd } from "../../src/units.ts";
import { FakeObject, FakeRead, type WriteRange } from "./fake-kernel.ts";
import { FlowRig, blocks } from "./flow-rig.ts";
import type { ScriptedFetch } from "./scripted-source.ts";
import { seededRandom } from "./seeded-random.ts";
import { startPrefetch } from "./simulated-prefetch.ts";
import {
  type SimulatedStream,
  broken,
  noSpace,
  rawSimulated,
  unitsSimulated,
} from "./simulated-streams.ts";
import type { PlantedFault } from "./simulated-units.ts";
import { SimulationChecks } from "./simulation-checks.ts";

const STEPS = 120;
const READ_TIMEOUT_MS = 2_000;

/** Runs the schedule of `seed` and returns what was violated, nothing when all held. */
export async function simulate(seed: number, planted?: PlantedFault): Promise<string[]> {
  const run = new Simulation(seed, planted);
  await run.play();
  return run.violations;
}

class Simulation {
  readonly #random: ReturnType<typeof seededRandom>;
  readonly #planted: PlantedFault | undefined;
  readonly #rig: FlowRig;
  readonly #checks = new SimulationChecks();
  /** Half of the runs: in the others nothing at all may be fetched twice. */
  readonly #pinsHeads: boolean;
  readonly #streams: SimulatedStream[] = [];
  readonly #reads: FakeRead[] = [];
  readonly #pins: PinnedHead[] = [];
  readonly #prefetcher: Prefetcher | undefined;

  constructor(seed: number, planted: PlantedFault | undefined) {
    const random = seededRandom(seed);
    this.#random = random;
    this.#planted = planted;
    this.#rig = new FlowRig({
      slabBlocks: random.between(1, 8),
      slabsMax: random.between(1, 5),
      limits: {
        windowBytes: random.between(1, 12) * BLOCK_BYTES,
        readTimeoutMs: READ_TIMEOUT_MS,
        answerHoldMs: random.between(0, 100),
      },
    });
    this.#pinsHeads = random.chance(0.5);
    for (const salt of [1, 2]) {
      const made = random.chance(0.5)
        ? unitsSimulated(this.#rig, random, { salt, planted })
        : rawSimulated(this.#rig, random, salt);
      this.#streams.push(made);
    }
    this.#prefetcher = random.chance(0.4)
      ? startPrefetch(this.#rig, random, this.#streams)
      : undefined;
  }

  get violations(): string[] {
    const maps = this.#streams.map(({ map }) => map);
    return [this.#checks, this.#rig.slabs, ...maps].flatMap((one) => one?.violations ?? []);
  }

  async play(): Promise<void> {
    for (let step = 0; step < STEPS; step += 1) {
      this.#step();
      await this.#settle();
      if (this.violations.length > 0) return;
    }
    await this.#finish();
  }

  #step(): void {
    const random = this.#random;
    const { objects } = this.#checks;
    const fetch = random.pick(this.#rig.source.open);
    const object = random.pick([...objects.keys()].filter(({ closed }) => !closed));
    const dice = random.between(0, 199);
    if (object === undefined || dice < 8) this.#open();
    else if (dice < 70) this.#read(object);
    else if (dice < 76) this.#close(object);
    else if (dice < 140) this.#play(fetch);
    else if (dice < 180) this.#write(random.pick([...objects.keys()]));
    else if (dice < 184) this.#pin();
    else if (dice < 190) this.#pins.shift()?.release();
    else if (dice < 191) this.#rig.engine.abort(new DaemonError({ code: "stopping" }));
  }

  // What an OPEN does: looks at the first bytes, and holds them for the object to come.
  #pin(): void {
    const stream = this.#random.pick(this.#streams.filter(({ map }) => map === undefined));
    if (stream === undefined || !this.#pinsHeads || this.#pins.length > 1) return;
    const head = this.#rig.engine.flowOf(stream.make()).pinHead();
    this.#pins.push(head);
    const wanted = Math.min(100, stream.blob.size);
    const check = (bytes: Uint8Array): void => {
      if (Buffer.compare(bytes, stream.bytes.subarray(0, wanted)) === 0) return;
      if (this.#pins.includes(head)) this.#checks.violations.push("a pinned head has wrong bytes");
    };
    head.bytes(wanted).then(check, () => undefined);
  }

  #open(): void {
    const stream = this.#random.pick(this.#streams);
    if (stream === undefined) return;
    const object = this.#rig.object(stream.record.size);
    object.holdsWrites = this.#random.chance(0.7);
    this.#watchWrites(object);
    if (this.#random.chance(0.5)) object.extents = this.#cachedBefore(object, stream);
    if (this.#random.chance(0.1)) object.extents = this.#later(object);
    this.#checks.objects.set(object, stream);
    this.#rig.engine.serve(stream.make(), object);
  }

  #watchWrites(object: FakeObject): void {
    const write = object.write.bind(object);
    object.write = (bytes: Uint8Array, range: WriteRange) => {
      this.#checks.checkWrite(object, bytes, range);
      const isCut = this.#planted === "sibling" && this.#random.chance(0.2);
      const cut = isCut && range.length > BLOCK_BYTES ? BLOCK_BYTES : 0;
      return write(bytes, { ...range, length: range.length - cut });
    };
  }

  /** What an earlier mount left in the file; listing it may take a turn or fail. */
  #cachedBefore(object: FakeObject, stream: SimulatedStream): Promise<Extent[]> {
    const first = this.#random.between(0, 20);
    const extent = blocks(first, first + this.#random.between(1, 6));
    if (extentEnd(extent) > stream.bytes.length) return Promise.resolve([]);
    object.preload(stream.bytes, extent);
    if (!this.#random.chance(0.1)) return Promise.resolve([extent]);
    this.#checks.unlisted.add(object);
    return Promise.reject(noSpace());
  }

  /** The same, but the kernel takes its time to say so. */
  #later(object: FakeObject): Promise<Extent[]> {
    const extents = Promise.resolve(object.extents);
    extents.catch(() => undefined);
    this.#checks.unlisted.add(object);
    return new Promise((resolve) => {
      this.#rig.clock.after(this.#random.between(1, 3_000), () => {
        resolve(extents);
      });
    });
  }

  #read(object: FakeObject): void {
    const count = object.file.length / BLOCK_BYTES;
    const last = this.#reads.findLast((read) => read.object === object);
    const sequential = last !== undefined && this.#random.chance(0.5);
    const start = sequential
      ? extentEnd(last.extent) / BLOCK_BYTES
      : this.#random.between(0, count - 1);
    if (start >= count) return;
    const end = Math.min(count, start + this.#random.between(1, this.#random.chance(0.2) ? 20 : 3));
    const { clock, engine } = this.#rig;
    const read = new FakeRead(object, blocks(start, end), (answered) => {
      this.#checks.answered(answered, clock.nowMs(), READ_TIMEOUT_MS);
    });
    this.#checks.asked(read, clock.nowMs());
    this.#reads.push(read);
    engine.read(read);
    if (this.#planted === "early answer" && !read.answered && this.#random.chance(0.05))
      read.complete();
  }

  #close(object: FakeObject): void {
    for (const read of this.#reads) if (read.object === object) read.withdraw();
    this.#rig.close(object);
    // The native layer refuses what has not begun, and lets what has begun end.
    this.#random.shuffle(object.writes);
  }

  #play(fetch: ScriptedFetch | undefined): void {
    if (fetch === undefined) return;
    const left = fetch.extent.length - fetch.given;
    const dice = this.#random.between(0, 99);
    if (dice < 60) this.#give(fetch, this.#random.between(1, Math.max(1, left)));
    else if (dice < 80) this.#give(fetch, left).end();
    else if (dice < 86) fetch.fail(broken());
    else if (dice < 89) fetch.end();
    else if (dice < 91) fetch.giveBytes(new Uint8Array(left + 1).fill(0x55)).end();
    else if (dice < 93 && left > 0) this.#damage(fetch, left);
    // else it stalls
  }

  /** A lying registry: survived where there are digests. */
  #damage(fetch: ScriptedFetch, left: number): void {
    const stream = this.#streams.find(({ blob }) => blob.digest === fetch.blob.digest);
    if (stream?.map === undefined) return;
    const offset = fetch.extent.offset + fetch.given;
    const length = this.#random.between(1, left);
    for (const one of stream.map.all) {
      const { stored } = one.unit;
      if (stored.offset < offset + length && offset < extentEnd(stored)) {
        this.#checks.damaged.add(one);
      }
    }
    fetch.giveBytes(new Uint8Array(length).fill(0x77));
  }

  #give(fetch: ScriptedFetch, bytes: number): ScriptedFetch {
    if (fetch.given >= fetch.extent.length) return fetch;
    if (this.#planted === "wrong byte" && this.#random.chance(0.1)) {
      const left = fetch.extent.length - fetch.given;
      return fetch.giveBytes(new Uint8Array(Math.min(bytes, left)).fill(0x77));
    }
    return fetch.give(Math.min(bytes, fetch.extent.length - fetch.given));
  }

  #write(object: FakeObject | undefined): void {
    const write = object?.writes.shift();
    if (object === undefined || write === undefined) return;
    if (this.#random.chance(0.1)) write.fail(object.closed ? object.gone() : noSpace());
    else write.finish();
  }

  // Time passes a little, or not at all; then what was fetched anew is looked at.
  async #settle(): Promise<void> {
    await this.#rig.clock.advance(this.#random.chance(0.7) ? 0 : this.#random.between(1, 200));
    this.#plantAfterwards();
    // A head is fetched whole, also where it is cached or under way behind its first block.
    if (this.#pinsHeads) return;
    const { fetches } = this.#rig.source;
    for (const fetch of fetches) this.#checks.checkFetch(fetch, fetches);
  }

  #plantAfterwards(): void {
    const read = this.#random.pick(this.#reads.filter(({ answer }) => answer === "waiting"));
    if (read === undefined || !this.#random.chance(0.05)) return;
    if (this.#planted === "lost answer") read.complete = read.fail = () => undefined;
    if (this.#planted === "twice") read.fail(broken());
    if (this.#planted === "second fetch") this.#fetchAgain();
  }

  #fetchAgain(): void {
    const fetch = this.#rig.source.open[0];
    if (fetch === undefined) return;
    const { blob, extent, options } = fetch;
    void this.#rig.source.readRange(blob, extent, () => undefined, options).catch(() => undefined);
  }

  // Everything that is under way ends somehow; then nothing may be left.
  async #finish(): Promise<void> {
    const { slabs, clock, engine, source } = this.#rig;
    const { objects } = this.#checks;
    for (const head of this.#pins.splice(0)) head.release();
    this.#prefetcher?.stop();
    for (let i = 0; i < 400 && this.#isBusy(); i += 1) {
      for (const fetch of source.open) this.#give(fetch, Infinity).end();
      for (const object of objects.keys()) {
        for (const write of object.writes.splice(0)) write.finish();
      }
      await clock.advance(50);
    }
    const waiting = this.#reads.filter(({ answer }) => answer === "waiting").length;
    if (waiting > 0) this.#checks.violations.push(`${waiting} READs were never answered`);
    this.#checks.checkWritten();
    for (const object of objects.keys()) if (!object.closed) this.#close(object);
    await clock.advance(3_000);
    this.#checks.expectNone("buffers lent", slabs.lentCount);
    this.#checks.expectNone("timers pending", clock.pendingCount);
    this.#checks.expectNone("reads waiting", engine.waitingReads);
    for (const stream of this.#streams) {
      this.#checks.expectNone("flights left", engine.flowOf(stream.make()).flights.size);
    }
  }

  #isBusy(): boolean {
    const { source, slabs } = this.#rig;
    const writing = [...this.#checks.objects.keys()].some(({ writes }) => writes.length > 0);
    const waiting = this.#reads.some(({ answer }) => answer === "waiting");
    return writing || waiting || source.open.length > 0 || slabs.lentCount > 0;
  }
}
