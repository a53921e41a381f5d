// SPDX-License-Identifier: Apache-2.0
// What must hold of READs and cache files in every schedule: exact bytes or an error that is true,
// one answer in time, and no answer missing once the bytes are there.

import { DaemonError } from "../../../src/errors.ts";
import { BLOCK_BYTES, type Extent, extentEnd, overlaps } from "../../../src/units.ts";
import type { FakeObject, FakeRead, WriteRange } from "../fake-kernel.ts";
import { blocks } from "../flow-rig.ts";
import type { SimulatedStream } from "./streams.ts";
import type { SeenLaunch } from "./turn-watch.ts";
import type { SimulatedUnit } from "./units.ts";
import { show } from "./wire-checks.ts";

/** Of a reader's time: what is tried for so long is tried to the end, but for decodes and pauses. */
const LONG_SHARE = 0.8;

export class ReaderChecks {
  readonly violations: string[] = [];
  readonly objects = new Map<FakeObject, SimulatedStream>();
  readonly reads: FakeRead[] = [];
  /** Objects whose file could not be listed, or not yet: all of it may be fetched again. */
  readonly unlisted = new Set<FakeObject>();
  /** Units of which the source gave wrong bytes, and raw streams that were fetched whole so. */
  readonly damaged = new Set<SimulatedUnit | SimulatedStream>();
  readonly failedWrites = new Set<FakeObject>();
  stops = 0;
  launches: readonly SeenLaunch[] = [];
  /** What the engine says it will fetch again in a moment. */
  pausedOf: (stream: SimulatedStream) => readonly Extent[] = () => [];
  readonly #timeoutMs: number;
  readonly #asked = new Map<FakeRead, number>();

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  asked(read: FakeRead, nowMs: number): void {
    read.onTwice = () => this.#say(`${this.#name(read)} was answered twice`);
    this.#asked.set(read, nowMs);
    this.reads.push(read);
  }

  askedMs(read: FakeRead): number {
    return this.#asked.get(read) ?? 0;
  }

  get waiting(): FakeRead[] {
    return this.reads.filter(({ answer }) => answer === "waiting");
  }

  answered(read: FakeRead, nowMs: number): void {
    const tookMs = nowMs - this.askedMs(read);
    if (tookMs > this.#timeoutMs) this.#say(`${this.#name(read)} was answered after ${tookMs} ms`);
    const stream = this.objects.get(read.object);
    if (stream === undefined) return;
    if (read.answer === "failed") this.#checkFailure(read, stream, nowMs);
    if (read.answer !== "complete") return;
    if (!read.object.hasWritten(read.extent)) {
      this.#say(`"complete" before ${this.#name(read)} was written`);
      return;
    }
    this.#checkFile(read.object, read.extent, stream);
  }

  /** An error must be true of the bytes that its reader lacked, and of a fetch made for readers. */
  #checkFailure(read: FakeRead, stream: SimulatedStream, nowMs: number): void {
    const code = rootOf(read.error)?.fault.code;
    const isTrue = code !== undefined && this.#isTrue(code, read, stream);
    if (!isTrue) this.#say(`${this.#name(read)} failed with ${code}, which is not so`);
    const isWrong = code === "digest_mismatch" || code === "blob_truncated";
    if (!isWrong || this.stops > 0 || this.#wasLong(read, stream, nowMs)) return;
    this.#say(`${this.#name(read)} failed with ${code}, which may pass`);
  }

  /** It has been wrong for about as long as a reader may wait, or he or another has waited so long. */
  #wasLong(read: FakeRead, stream: SimulatedStream, nowMs: number): boolean {
    const isLong = (sinceMs: number): boolean => nowMs - sinceMs >= LONG_SHARE * this.#timeoutMs;
    const whole = widened(stream, read.extent);
    const isRemembered = read.error !== rootOf(read.error);
    return (
      isLong(this.askedMs(read)) ||
      this.launches.some(
        ({ atMs, extent, isSecondTry, streamKey }) =>
          isSecondTry &&
          isLong(atMs) &&
          streamKey.endsWith(stream.record.digest) &&
          overlaps(extent, whole),
      ) ||
      this.reads.some(
        (other) =>
          isRemembered &&
          (other.answer === "failed" || other.answer === "gone") &&
          isLong(this.askedMs(other)) &&
          this.objects.get(other.object) === stream &&
          overlaps(widened(stream, other.extent), whole),
      )
    );
  }

  #isTrue(code: string, { object, extent }: FakeRead, stream: SimulatedStream): boolean {
    const units = (stream.map?.touched(extent) ?? []).filter(
      (one) => this.unlisted.has(object) || !object.hasWritten(one.extent),
    );
    const fetched = this.launches.filter(
      (one) => one.streamKey.endsWith(stream.record.digest) && overlaps(one.extent, extent),
    );
    const hadFault = fetched.some(
      ({ urgency, fault }) => fault === code && (urgency === "demand" || this.stops > 0),
    );
    switch (code) {
      case "digest_mismatch": {
        const isWrong =
          stream.map === undefined
            ? this.damaged.has(stream)
            : units.some((one) => one.isBad || this.damaged.has(one));
        return isWrong && (this.stops > 0 || fetched.some(({ isSecondTry }) => isSecondTry));
      }
      case "blob_truncated":
        return fetched.some(
          ({ isSecondTry, fault }) => fault === code && (isSecondTry || this.stops > 0),
        );
      case "registry_unreachable":
      case "registry_timeout":
      case "internal":
        return hadFault;
      case "chunk_untrusted":
        return units.some(({ isTrusted }) => !isTrusted);
      case "cache_no_space":
        return this.failedWrites.has(object);
      case "stopping":
        return this.stops > 0;
      case "deadline_exceeded":
        return true;
      default:
        return false;
    }
  }

  /** What is given to be written must be right already then: it has been verified. */
  checkWrite(object: FakeObject, bytes: Uint8Array, range: WriteRange): void {
    const stream = this.objects.get(object);
    if (stream === undefined) return;
    const { bytesOffset, fileOffset, length } = range;
    const given = bytes.subarray(bytesOffset, bytesOffset + length);
    if (Buffer.compare(given, stream.bytes.subarray(fileOffset, fileOffset + length)) === 0) return;
    const what = show({ offset: fileOffset, length });
    this.#say(`wrong bytes are written to ${what} of ${object.cookieKey}`);
  }

  #checkFile(object: FakeObject, extent: Extent, { bytes }: SimulatedStream): void {
    const end = Math.min(extentEnd(extent), bytes.length);
    const [have, want] = [object.file, bytes].map((all) => all.subarray(extent.offset, end));
    if (have === undefined || want === undefined || Buffer.compare(have, want) === 0) return;
    this.#say(`wrong bytes in ${show(extent)} of ${object.cookieKey}`);
  }

  checkWritten(): void {
    for (const [object, stream] of this.objects) {
      for (let block = 0; block * BLOCK_BYTES < object.file.length; block += 1) {
        const extent = blocks(block, block + 1);
        if (object.hasWritten(extent)) this.#checkFile(object, extent, stream);
      }
    }
  }

  /** Nobody waits whose bytes are in the file, nor for what nobody brings. */
  settled(): void {
    for (const read of this.waiting) {
      const { object, extent } = read;
      const stream = this.objects.get(object);
      if (this.unlisted.has(object) || object.closed || stream === undefined) continue;
      if (object.hasWritten(extent)) this.#say(`${this.#name(read)} is in the file, and waits`);
      if (!this.#isBrought(stream, read)) this.#say(`${this.#name(read)}, which nobody brings`);
    }
  }

  #isBrought(stream: SimulatedStream, { object, extent }: FakeRead): boolean {
    const launched = this.launches.filter(
      ({ streamKey, turn }) =>
        !turn.isGone && !turn.isReleased && streamKey.endsWith(stream.record.digest),
    );
    const coming = [...launched.map((launch) => launch.extent), ...this.pausedOf(stream)];
    const end = Math.min(extentEnd(extent), object.file.length);
    for (let { offset } = extent; offset < end; offset += BLOCK_BYTES) {
      const block = { offset, length: BLOCK_BYTES };
      if (object.hasWritten(block)) continue;
      if (!coming.some((one) => overlaps(one, block))) return false;
    }
    return true;
  }

  /** Part of what it brings has come and was seen to be wrong. */
  isWrong({ map }: SimulatedStream, part: Extent): boolean {
    return map?.touched(part).every((one) => one.isBad || this.damaged.has(one)) === true;
  }

  /** Some open object lacks a block of the part, and no write of it is under way there. */
  isNeeded(stream: SimulatedStream, part: Extent): boolean {
    for (const [object, of] of this.objects) {
      if (of !== stream || object.closed) continue;
      if (this.unlisted.has(object) || this.failedWrites.has(object)) return true;
      for (let { offset } = part; offset < extentEnd(part); offset += BLOCK_BYTES) {
        const block = { offset, length: BLOCK_BYTES };
        const isComing = object.writes.some(({ range: { fileOffset, length } }) =>
          overlaps({ offset: fileOffset, length }, block),
        );
        // What a failed fetch had brought may still be on its way into the file.
        if (!object.hasWritten(block) && (!isComing || this.#hasFailed(stream, block))) return true;
      }
    }
    return false;
  }

  #hasFailed({ record }: SimulatedStream, block: Extent): boolean {
    return this.launches.some(
      ({ extent, streamKey, fault, turn }) =>
        (fault !== undefined || turn.signal.aborted) &&
        streamKey.endsWith(record.digest) &&
        overlaps(extent, block),
    );
  }

  /** A reader, who is known to the engine, lacks a block of it that nothing in memory will bring. */
  isAwaited(stream: SimulatedStream, extent: Extent): boolean {
    return this.waiting.some(({ object, extent: wanted }) => {
      if (this.objects.get(object) !== stream || this.unlisted.has(object)) return false;
      const from = Math.max(extent.offset, wanted.offset);
      const end = Math.min(extentEnd(extent), extentEnd(wanted), object.file.length);
      for (let offset = from; offset < end; offset += BLOCK_BYTES) {
        const block = { offset, length: BLOCK_BYTES };
        if (!object.hasWritten(block) && !this.#isInMemory(stream, block)) return true;
      }
      return false;
    });
  }

  #isInMemory({ record }: SimulatedStream, block: Extent): boolean {
    return this.launches.some(
      ({ extent, streamKey, turn }) =>
        turn.isGranted &&
        !turn.isReleased &&
        streamKey.endsWith(record.digest) &&
        overlaps(extent, block),
    );
  }

  expectNone(what: string, count: number): void {
    if (count > 0) this.#say(`${count} ${what} at the end`);
  }

  #name({ object, extent }: FakeRead): string {
    return `READ ${show(extent)} of ${object.cookieKey}`;
  }

  #say(what: string): void {
    this.violations.push(what);
  }
}

/** The units, or for what is refused as a whole the whole. */
function widened({ map, record }: SimulatedStream, extent: Extent): Extent {
  return map === undefined ? { offset: 0, length: record.size } : map.widen(extent);
}

export function rootOf(error: unknown): DaemonError | undefined {
  if (!(error instanceof DaemonError)) return undefined;
  return error.fault.code === "failed_recently" ? rootOf(error.cause) : error;
}
