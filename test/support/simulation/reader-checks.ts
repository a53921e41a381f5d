// SPDX-License-Identifier: Apache-2.0
// What must hold in every schedule of a simulation, looked at from outside: the requests, the
// cache files, the fetches, the slabs.

import { DaemonError } from "../../src/errors.ts";
import { overlaps } from "../../src/flow/failure-memory.ts";
import { BLOCK_BYTES, type Extent, extentEnd } from "../../src/units.ts";
import type { FakeObject, FakeRead, WriteRange } from "./fake-kernel.ts";
import { blocks } from "./flow-rig.ts";
import type { ScriptedFetch } from "./scripted-source.ts";
import { type SimulatedStream, partsOf } from "./simulated-streams.ts";
import type { SimulatedUnit } from "./simulated-units.ts";

export class SimulationChecks {
  readonly violations: string[] = [];
  readonly objects = new Map<FakeObject, SimulatedStream>();
  /** Objects whose file could not be listed, or not yet: all of it may be fetched again. */
  readonly unlisted = new Set<FakeObject>();
  /** Units of which the source gave wrong bytes: they fail once, their neighbours do not. */
  readonly damaged = new Set<SimulatedUnit>();
  readonly #checked = new Set<ScriptedFetch>();
  readonly #asked = new Map<FakeRead, number>();

  asked(read: FakeRead, nowMs: number): void {
    read.onTwice = () => this.violations.push(`${show(read.extent)} was answered twice`);
    this.#asked.set(read, nowMs);
  }

  answered(read: FakeRead, nowMs: number, timeoutMs: number): void {
    const askedMs = this.#asked.get(read) ?? nowMs;
    if (nowMs - askedMs > timeoutMs) {
      this.violations.push(`${show(read.extent)} was answered after ${nowMs - askedMs} ms`);
    }
    const stream = this.objects.get(read.object);
    if (stream === undefined) return;
    if (read.answer === "failed") this.#checkFailure(read, stream);
    if (read.answer !== "complete") return;
    if (!read.object.hasWritten(read.extent)) {
      this.violations.push(`"complete" before ${show(read.extent)} was written`);
      return;
    }
    this.#checkFile(read.object, read.extent, stream);
  }

  /** A unit that is bad, damaged or not to be served fails those who need it, and nobody else. */
  #checkFailure({ extent, error }: FakeRead, { map }: SimulatedStream): void {
    if (map === undefined) return;
    const code = rootOf(error)?.fault.code;
    const touched = map.touched(extent);
    const isWrong =
      code === "digest_mismatch" && !touched.some((one) => one.isBad || this.damaged.has(one));
    const isUntrusted = code === "chunk_untrusted" && touched.every((one) => one.isTrusted);
    if (isWrong || isUntrusted) this.violations.push(`${show(extent)} failed with ${code}`);
  }

  /** What is given to be written must be right already then: it has been verified. */
  checkWrite(object: FakeObject, bytes: Uint8Array, range: WriteRange): void {
    const stream = this.objects.get(object);
    if (stream?.map === undefined) return;
    const { bytesOffset, fileOffset, length } = range;
    const given = bytes.subarray(bytesOffset, bytesOffset + length);
    if (Buffer.compare(given, stream.bytes.subarray(fileOffset, fileOffset + length)) === 0) return;
    const what = show({ offset: fileOffset, length });
    this.violations.push(`${what} of ${object.cookieKey} written before it was verified`);
  }

  #checkFile(object: FakeObject, extent: Extent, { bytes }: SimulatedStream): void {
    const end = Math.min(extentEnd(extent), bytes.length);
    const [have, want] = [object.file, bytes].map((all) => all.subarray(extent.offset, end));
    if (have === undefined || want === undefined || Buffer.compare(have, want) === 0) return;
    this.violations.push(`wrong bytes in ${show(extent)} of ${object.cookieKey}`);
  }

  checkWritten(): void {
    for (const [object, stream] of this.objects) {
      for (let block = 0; block * BLOCK_BYTES < object.file.length; block += 1) {
        const extent = blocks(block, block + 1);
        if (object.hasWritten(extent)) this.#checkFile(object, extent, stream);
      }
    }
  }

  /** A new fetch may not overlap one under way, nor bring what every open object holds. */
  checkFetch(fetch: ScriptedFetch, all: readonly ScriptedFetch[]): void {
    if (this.#checked.has(fetch)) return;
    this.#checked.add(fetch);
    // Cancelled before it began: who wanted it has closed.
    if (fetch.options.signal.aborted && fetch.given === 0) return;
    const { digest } = fetch.blob;
    for (const other of all) {
      const isEarlier = other !== fetch && this.#checked.has(other) && !other.ended;
      if (!isEarlier || other.blob.digest !== digest) continue;
      if (overlaps(other.extent, fetch.extent)) {
        this.violations.push(`${show(fetch.extent)} is fetched while ${show(other.extent)} is`);
      }
    }
    const stream = [...this.objects.values()].find(({ blob }) => blob.digest === digest);
    const parts = stream === undefined ? undefined : partsOf(stream, fetch);
    if (stream !== undefined && parts === undefined) {
      this.violations.push(`a fetch of ${fetch.extent.length} bytes is not of whole units`);
    }
    const objects = [...this.objects.keys()];
    const isWanted = (part: Extent, by: readonly FakeObject[]): boolean =>
      by.some((object) => this.#isNeeded(part, object, { digest, all }));
    const open = objects.filter(({ closed }) => !closed);
    if (parts?.some((part) => isWanted(part, open)) === false) {
      this.violations.push("a fetch brings what every open object has");
    }
    // While it waited for memory, one who wanted a part of it may have closed.
    for (const part of parts ?? []) {
      if (!isWanted(part, objects)) {
        this.violations.push(`${show(part)} is fetched though every object has it`);
      }
    }
  }

  /** It lacks one of the part's blocks, and no write of it is under way there. */
  #isNeeded(
    part: Extent,
    object: FakeObject,
    of: { readonly digest: string; readonly all: readonly ScriptedFetch[] },
  ): boolean {
    const stream = this.objects.get(object);
    if (stream?.blob.digest !== of.digest) return false;
    if (this.unlisted.has(object)) return true;
    for (let { offset } = part; offset < extentEnd(part); offset += BLOCK_BYTES) {
      const block = { offset, length: BLOCK_BYTES };
      // What a failed fetch had brought may still be on its way into the file: it is fetched anew.
      const failedBefore = of.all.some((other) => {
        if (!other.failed || other.blob.digest !== of.digest) return false;
        return partsOf(stream, other)?.some((failed) => overlaps(failed, block)) === true;
      });
      if (failedBefore) return true;
      const coming = object.writes.some(({ range: { fileOffset, length } }) =>
        overlaps({ offset: fileOffset, length }, block),
      );
      if (!coming && !object.hasWritten(block)) return true;
    }
    return false;
  }

  expectNone(what: string, count: number): void {
    if (count > 0) this.violations.push(`${count} ${what} at the end`);
  }
}

function rootOf(error: unknown): DaemonError | undefined {
  if (!(error instanceof DaemonError)) return undefined;
  return error.fault.code === "failed_recently" ? rootOf(error.cause) : error;
}

function show(extent: Extent): string {
  return `blocks [${extent.offset / BLOCK_BYTES}, ${extentEnd(extent) / BLOCK_BYTES})`;
}
