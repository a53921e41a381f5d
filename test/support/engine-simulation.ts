// SPDX-License-Identifier: Apache-2.0
// One schedule of the engine, drawn from a seed: readers, objects that open and close, a source
// that is slow, cuts fetches short, fails and stalls, and a cache that writes slowly or not at
// all. Time is virtual; what happens next is always drawn from the seed, so one seed is one run.
//
// Survived must be: any order of pieces and writes; fetches that resolve short, fail, stall or
// give too much; writes that fail; objects closing at any moment, their writes still under way.
// Checked: see `violations`.

import { DaemonError } from "../../src/errors.ts";
import type { SizedBlobLocation as BlobLocation } from "../../src/source/source.ts";
import { BLOCK_BYTES, type Extent, extentEnd } from "../../src/units.ts";
import { overlaps } from "../../src/flow/failure-memory.ts";
import type { PinnedHead } from "../../src/flow/stream-flow.ts";
import { FakeObject, FakeRead } from "./fake-kernel.ts";
import { FlowRig, blocks, patternBytes } from "./flow-rig.ts";
import type { ScriptedFetch } from "./scripted-source.ts";
import { seededRandom } from "./seeded-random.ts";

/** Faults of ours, planted to see that the checks find them. */
export type PlantedFault = "wrong byte" | "early answer" | "lost answer" | "second fetch" | "twice";

const STEPS = 120;
const READ_TIMEOUT_MS = 2_000;

interface Stream {
  readonly blob: BlobLocation;
  readonly bytes: Uint8Array;
}

/** Runs the schedule of `seed` and returns what was violated, nothing when all held. */
export async function simulate(seed: number, planted?: PlantedFault): Promise<string[]> {
  const run = new Simulation(seed, planted);
  await run.play();
  return run.violations;
}

class Simulation {
  readonly violations: string[] = [];
  readonly #random: ReturnType<typeof seededRandom>;
  readonly #planted: PlantedFault | undefined;
  readonly #rig: FlowRig;
  /** Half of the runs: in the others nothing at all may be fetched twice. */
  readonly #pinsHeads: boolean;
  readonly #streams: Stream[] = [];
  readonly #objects = new Map<FakeObject, Stream>();
  readonly #reads: FakeRead[] = [];
  readonly #pins: PinnedHead[] = [];
  /** Objects whose file could not be listed: all of it is fetched again. */
  readonly #unlisted = new Set<FakeObject>();
  readonly #checkedFetches = new Set<ScriptedFetch>();

  constructor(seed: number, planted: PlantedFault | undefined) {
    this.#random = seededRandom(seed);
    this.#planted = planted;
    this.#rig = new FlowRig({
      slabBlocks: this.#random.between(1, 8),
      slabsMax: this.#random.between(1, 5),
      limits: {
        windowBytes: this.#random.between(1, 12) * BLOCK_BYTES,
        readTimeoutMs: READ_TIMEOUT_MS,
        answerHoldMs: this.#random.between(0, 100),
      },
    });
    this.#pinsHeads = this.#random.chance(0.5);
    for (let i = 0; i < 2; i += 1) {
      const size = this.#random.between(1, 40) * BLOCK_BYTES - this.#random.between(0, 1) * 1000;
      const bytes = patternBytes(size, i + 1);
      this.#streams.push({ blob: this.#rig.blob(bytes), bytes });
    }
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
    const fetch = random.pick(this.#rig.source.open);
    const object = random.pick([...this.#objects.keys()].filter(({ closed }) => !closed));
    const dice = random.between(0, 99);
    if (object === undefined || dice < 4) this.#open();
    else if (dice < 35) this.#read(object);
    else if (dice < 38) this.#close(object);
    else if (dice < 70) this.#play(fetch);
    else if (dice < 90) this.#write(random.pick([...this.#objects.keys()]));
    else if (dice < 92) this.#pin();
    else if (dice < 95) this.#pins.shift()?.release();
  }

  // What an OPEN does: looks at the first bytes, and holds them for the object to come.
  #pin(): void {
    const stream = this.#random.pick(this.#streams);
    if (stream === undefined || !this.#pinsHeads || this.#pins.length > 1) return;
    const head = this.#rig.engine.flowOf(this.#rig.stream(stream.blob)).pinHead();
    this.#pins.push(head);
    const wanted = Math.min(100, stream.bytes.length);
    const check = (bytes: Uint8Array): void => {
      if (Buffer.compare(bytes, stream.bytes.subarray(0, wanted)) === 0) return;
      if (this.#pins.includes(head)) this.violations.push("a pinned head has wrong bytes");
    };
    head.bytes(wanted).then(check, () => undefined);
  }

  #open(): void {
    const stream = this.#random.pick(this.#streams);
    if (stream === undefined) return;
    const object = this.#rig.object(stream.blob.size);
    object.holdsWrites = this.#random.chance(0.7);
    if (this.#random.chance(0.5)) object.extents = this.#cachedBefore(object, stream);
    this.#objects.set(object, stream);
    this.#rig.engine.serve(this.#rig.stream(stream.blob), object);
  }

  /** What an earlier mount left in the file; listing it may take a turn or fail. */
  #cachedBefore(object: FakeObject, stream: Stream): Promise<Extent[]> {
    const first = this.#random.between(0, 20);
    const extent = blocks(first, first + this.#random.between(1, 6));
    const whole = new Uint8Array(object.file.length);
    whole.set(stream.bytes);
    if (extentEnd(extent) > whole.length) return Promise.resolve([]);
    object.preload(whole, extent);
    if (this.#random.chance(0.1)) {
      this.#unlisted.add(object);
      return Promise.reject(noSpace());
    }
    return Promise.resolve([extent]);
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
    const read = new FakeRead(object, blocks(start, end), (answered) => this.#answered(answered));
    read.onTwice = () => this.violations.push(`${show(read.extent)} was answered twice`);
    this.#reads.push(read);
    this.#rig.engine.read(read);
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
    // else it stalls
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

  #answered(read: FakeRead): void {
    const stream = this.#objects.get(read.object);
    if (read.answer !== "complete" || stream === undefined) return;
    if (!read.object.hasWritten(read.extent)) {
      this.violations.push(`"complete" before ${show(read.extent)} was written`);
      return;
    }
    this.#checkFile(read.object, read.extent, stream);
  }

  #checkFile(object: FakeObject, extent: Extent, stream: Stream): void {
    const expected = new Uint8Array(object.file.length);
    expected.set(stream.bytes);
    const end = Math.min(extentEnd(extent), expected.length);
    const [have, want] = [object.file, expected].map((all) => all.subarray(extent.offset, end));
    if (have === undefined || want === undefined || Buffer.compare(have, want) === 0) return;
    this.violations.push(`wrong bytes in ${show(extent)} of ${object.cookieKey}`);
  }

  // Time passes a little, or not at all; then what was fetched anew is looked at.
  async #settle(): Promise<void> {
    await this.#rig.clock.advance(this.#random.chance(0.7) ? 0 : this.#random.between(1, 200));
    this.#plantAfterwards();
    for (const fetch of this.#rig.source.fetches) this.#checkFetch(fetch);
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

  /** A new fetch may not overlap one under way, nor what every open object of the stream holds. */
  #checkFetch(fetch: ScriptedFetch): void {
    if (this.#checkedFetches.has(fetch)) return;
    this.#checkedFetches.add(fetch);
    const { digest } = fetch.blob;
    // A head is fetched whole, also where it is cached or under way behind its first block.
    if (this.#pinsHeads) return;
    for (const other of this.#rig.source.open) {
      const isEarlier = other !== fetch && this.#checkedFetches.has(other);
      if (!isEarlier || other.blob.digest !== digest) continue;
      if (overlaps(other.extent, fetch.extent)) {
        this.violations.push(`${show(fetch.extent)} is fetched while ${show(other.extent)} is`);
      }
    }
    if (!this.#isNeeded(fetch)) {
      this.violations.push(`${show(fetch.extent)} is fetched though every open object has it`);
    }
  }

  /** Some open object lacks one of its blocks, and no write of it is under way there. */
  #isNeeded(fetch: ScriptedFetch): boolean {
    return [...this.#objects].some(([object, { blob }]) => {
      if (object.closed || blob.digest !== fetch.blob.digest) return false;
      if (this.#unlisted.has(object)) return true;
      const [first, end] = [fetch.extent.offset, extentEnd(fetch.extent)];
      for (let offset = first; offset < end; offset += BLOCK_BYTES) {
        const block = { offset, length: BLOCK_BYTES };
        // What a failed fetch had brought may still be on its way into the file: it is fetched anew.
        const failedBefore = this.#rig.source.fetches.some(
          (other) =>
            other.failed && other.blob.digest === blob.digest && overlaps(other.extent, block),
        );
        if (failedBefore) return true;
        const coming = object.writes.some(({ range: { fileOffset, length } }) =>
          overlaps({ offset: fileOffset, length }, block),
        );
        if (!coming && !object.hasWritten(block)) return true;
      }
      return false;
    });
  }

  // Everything that is under way ends somehow; then nothing may be left.
  async #finish(): Promise<void> {
    for (const head of this.#pins.splice(0)) head.release();
    for (let i = 0; i < 400 && this.#isBusy(); i += 1) {
      for (const fetch of this.#rig.source.open) this.#give(fetch, Infinity).end();
      for (const object of this.#objects.keys()) {
        for (const write of object.writes.splice(0)) write.finish();
      }
      await this.#rig.clock.advance(50);
    }
    const unanswered = this.#reads.filter(({ answer }) => answer === "waiting");
    if (unanswered.length > 0)
      this.violations.push(`${unanswered.length} READs were never answered`);
    for (const [object, stream] of this.#objects) this.#checkWritten(object, stream);
    for (const object of this.#objects.keys()) if (!object.closed) this.#close(object);
    await this.#rig.clock.advance(0);
    const { slabs, clock, engine } = this.#rig;
    this.#expectNone("buffers lent", slabs.lentCount + slabs.waitingCount);
    this.#expectNone("timers pending", clock.pendingCount);
    this.#expectNone("reads waiting", engine.waitingReads);
    for (const { blob } of this.#streams) {
      this.#expectNone("flights left", engine.flowOf(this.#rig.stream(blob)).flights.size);
    }
  }

  #isBusy(): boolean {
    const writing = [...this.#objects.keys()].some(({ writes }) => writes.length > 0);
    const waiting = this.#reads.some(({ answer }) => answer === "waiting");
    return writing || waiting || this.#rig.source.open.length > 0;
  }

  #checkWritten(object: FakeObject, stream: Stream): void {
    for (let block = 0; block * BLOCK_BYTES < object.file.length; block += 1) {
      const extent = blocks(block, block + 1);
      if (object.hasWritten(extent)) this.#checkFile(object, extent, stream);
    }
  }

  #expectNone(what: string, count: number): void {
    if (count > 0) this.violations.push(`${count} ${what} at the end`);
  }
}

function show(extent: Extent): string {
  return `blocks [${extent.offset / BLOCK_BYTES}, ${extentEnd(extent) / BLOCK_BYTES})`;
}

function broken(): DaemonError {
  return new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });
}

function noSpace(): DaemonError {
  return new DaemonError({ code: "cache_no_space", key: "k", detail: "full" });
}
