// SPDX-License-Identifier: Apache-2.0
// What the readers of one object are doing, told from their READs alone: pure but for its memory.
// Where the kernel asks only for what is not cached, a reader shows itself at the edges of what it
// was given: in order, it skips from one window's end to the next; at random, it hits nothing.
//
//   track    |== last READ ==|....... planned ahead .......|
//                            ^ end                         ^ aheadEnd
//
// A few tracks at once: several files of an image are read in turns.

import { type Extent, KIB, MIB, alignDown, extentEnd } from "../units.ts";

export type PatternKind = "first" | "sequential" | "backward" | "strided" | "random";

/** One reader's way through the object. Its identity is what read-ahead is shared out by. */
export interface Track {
  readonly kind: PatternKind;
  readonly last: Extent;
  /** Everything up to here has been planned for it; `last`'s end at least. */
  readonly aheadEnd: number;
  /** How far it is read ahead; grows while it stays in order. */
  readonly windowBytes: number;
}

export interface Verdict {
  readonly track: Track;
  /** To be fetched before it is asked for, nearest first; may be cached or under way already. */
  readonly ahead: readonly Extent[];
}

export interface PatternLimits {
  /** Of a reader without a history. */
  readonly windowBytes: number;
  readonly aheadBytesMax: number;
  readonly streamEnd: number;
  /** The kernel asks also for what is cached: what is passed over is not read. */
  readonly seesHits: boolean;
}

/** Where the bytes of an extent are, all of them. */
export interface Whereabouts {
  readonly isCached: (extent: Extent) => boolean;
  /** Cached or under way. */
  readonly isHeld: (extent: Extent) => boolean;
}

interface MutableTrack {
  readonly startOffset: number;
  kind: PatternKind;
  last: Extent;
  aheadEnd: number;
  /** Of a reader that goes backward: everything from here on has been planned. */
  aheadStart: number;
  /** What it asked for. */
  readBytes: number;
  windowBytes: number;
  streak: number;
}

const TRACKS_MAX = 32;
/** A reader in order may pass over so much: the gap between two files. */
const SKIP_BYTES_MAX = 128 * KIB;
/** A stride longer than this is a jump. */
const STRIDE_BYTES_MAX = 64 * MIB;
const STRIDES_AHEAD = 4;
const BACKWARD_STREAK = 2;
const BACKWARD_STEP_BYTES = 256 * KIB;
/** A READ this small that continues nothing is a stray; a larger one has the kernel's own readahead. */
const STRAY_READ_BYTES_MAX = 4 * KIB;
const STRAYS_FOR_RANDOM = 4;
const STRAYS_MAX = 6;

export class ReadPattern {
  readonly #limits: PatternLimits;
  /** The one used last is the last. */
  readonly #tracks: MutableTrack[] = [];
  #before: Extent | undefined;
  #step = 0;
  /** Zero while there is none. */
  #stride = 0;
  #strays = 0;

  constructor(limits: PatternLimits) {
    this.#limits = limits;
  }

  /** True while small READs continue nothing. */
  get isRandom(): boolean {
    return this.#strays >= STRAYS_FOR_RANDOM;
  }

  /**
   * Takes note of a READ. `fullBytes` is what keeps the link full: a reader who has read a window
   * in order gets no smaller a one.
   */
  note(read: Extent, where: Whereabouts, fullBytes = 0): Verdict {
    this.#noteStride(read, where.isHeld);
    if (this.#stride !== 0) return this.#strided(read);
    for (let index = this.#tracks.length - 1; index >= 0; index -= 1) {
      const track = this.#tracks[index];
      if (track === undefined) continue;
      const isForward = this.#isForward(track, read, where);
      if (!isForward && !this.#isBackward(track, read, where)) continue;
      this.#tracks.splice(index, 1);
      this.#tracks.push(track);
      this.#strays = Math.max(0, this.#strays - 2);
      track.readBytes += read.length;
      return isForward ? this.#forward(track, read, fullBytes) : this.#backward(track, read);
    }
    const isStray = read.length <= STRAY_READ_BYTES_MAX;
    this.#strays = isStray ? Math.min(this.#strays + 1, STRAYS_MAX) : Math.max(0, this.#strays - 1);
    return {
      track: this.#begin(read, this.isRandom ? "random" : "first"),
      ahead: [],
    };
  }

  /** What was fetched along with the READ of `track` counts as its read-ahead. */
  planned(track: Track, aheadEnd: number): void {
    const own = this.#tracks.find((one) => one === track);
    if (own !== undefined) own.aheadEnd = Math.max(own.aheadEnd, aheadEnd);
  }

  #begin(read: Extent, kind: PatternKind): MutableTrack {
    const { windowBytes } = this.#limits;
    const { offset: startOffset, length: readBytes } = read;
    const ends = { aheadEnd: extentEnd(read), aheadStart: startOffset };
    const track = { startOffset, kind, last: read, ...ends, readBytes, windowBytes, streak: 0 };
    this.#tracks.push(track);
    if (this.#tracks.length > TRACKS_MAX) this.#tracks.shift();
    return track;
  }

  #isForward(track: MutableTrack, read: Extent, where: Whereabouts): boolean {
    const end = extentEnd(track.last);
    if (read.offset < track.last.offset) return false;
    if (read.offset <= end + SKIP_BYTES_MAX) return true;
    // Who is not seen reads what is cached; what is still to come he would wait for.
    if (this.#limits.seesHits) return false;
    if (read.offset <= track.aheadEnd + SKIP_BYTES_MAX) {
      const passed = Math.min(read.offset, track.aheadEnd) - end;
      return passed <= 0 || where.isCached({ offset: end, length: passed });
    }
    const skipped = { offset: track.aheadEnd, length: read.offset - track.aheadEnd };
    return skipped.length <= track.windowBytes && where.isHeld(skipped);
  }

  /** Tops up what is ahead once half of it is used; the window doubles with each top-up. */
  #forward(track: MutableTrack, read: Extent, fullBytes: number): Verdict {
    const { windowBytes, aheadBytesMax, streamEnd } = this.#limits;
    const end = extentEnd(read);
    track.last = read;
    track.kind = "sequential";
    const from = Math.max(track.aheadEnd, end);
    if (from - end > track.windowBytes / 2) return { track, ahead: [] };
    // Most files are short: who has read little of a window is not given all that the link could carry.
    const passedBytes = this.#limits.seesHits ? track.readBytes : end - track.startOffset;
    const isLong = passedBytes > windowBytes / 2;
    const enough = isLong ? fullBytes : 0;
    track.windowBytes = Math.min(Math.max(2 * track.windowBytes, enough), aheadBytesMax);
    // Whole first windows, but for the stream's end: the rest of one would be a request of its own.
    const room = Math.max(0, Math.min(end + track.windowBytes, streamEnd) - from);
    const isLast = from + room >= streamEnd;
    const length = isLast || room < windowBytes ? room : alignDown(room, windowBytes);
    track.aheadEnd = from + length;
    return { track, ahead: length > 0 ? [{ offset: from, length }] : [] };
  }

  #isBackward(track: MutableTrack, read: Extent, { isCached }: Whereabouts): boolean {
    const end = extentEnd(read);
    const gap = track.last.offset - end;
    if (gap <= SKIP_BYTES_MAX) return gap >= 0;
    if (this.#limits.seesHits || track.kind !== "backward") return false;
    return gap <= track.windowBytes && isCached({ offset: end, length: gap });
  }

  /** Topped up as in order, beginning with one window. */
  #backward(track: MutableTrack, read: Extent): Verdict {
    track.streak = track.kind === "backward" ? track.streak + 1 : 1;
    track.kind = "backward";
    track.last = read;
    track.aheadEnd = extentEnd(read);
    const until = Math.min(track.aheadStart, read.offset);
    track.aheadStart = until;
    if (track.streak < BACKWARD_STREAK) return { track, ahead: [] };
    if (track.streak > BACKWARD_STREAK) {
      if (read.offset - until > track.windowBytes / 2) return { track, ahead: [] };
      track.windowBytes = Math.min(2 * track.windowBytes, this.#limits.aheadBytesMax);
    }
    track.aheadStart = Math.min(Math.max(0, read.offset - track.windowBytes), until);
    return { track, ahead: nearestFirst(track.aheadStart, until) };
  }

  /** Two equal steps over what nobody has fetched; later ones may pass over what was. */
  #noteStride(read: Extent, isHeld: (extent: Extent) => boolean): void {
    const before = this.#before;
    this.#before = read;
    if (before === undefined) return;
    const step = read.offset - before.offset;
    const strides = this.#stride === 0 ? 0 : step / this.#stride;
    if (Number.isInteger(strides) && strides >= 1 && strides <= STRIDES_AHEAD + 1) return;
    const isSame = step === this.#step;
    this.#step = step;
    this.#stride = 0;
    const distance = Math.abs(step);
    if (!isSame || distance <= SKIP_BYTES_MAX || distance > STRIDE_BYTES_MAX) return;
    const [low, high] = step > 0 ? [before, read] : [read, before];
    const between = { offset: extentEnd(low), length: high.offset - extentEnd(low) };
    if (between.length > 0 && !isHeld(between)) this.#stride = step;
  }

  #strided(read: Extent): Verdict {
    const ahead = Array.from({ length: STRIDES_AHEAD }, (_, index) => ({
      offset: read.offset + this.#stride * (index + 1),
      length: read.length,
    })).filter(({ offset, length }) => offset >= 0 && offset + length <= this.#limits.streamEnd);
    return { track: this.#begin(read, "strided"), ahead };
  }
}

/** [from, end) in steps, the last first. */
function nearestFirst(from: number, end: number): Extent[] {
  const steps: Extent[] = [];
  for (let at = end; at > from; ) {
    const offset = Math.max(from, at - BACKWARD_STEP_BYTES);
    steps.push({ offset, length: at - offset });
    at = offset;
  }
  return steps;
}
