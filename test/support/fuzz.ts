// SPDX-License-Identifier: Apache-2.0
// How parsers are fuzzed: what every one of them promises, and how often it is tried.
// On failure fast-check prints the seed and the smallest input; EROFSD_FUZZ_RUNS sets the
// number of inputs for each property.

import * as fc from "fast-check";
import { DaemonError } from "../../src/errors.ts";

const RUNS_DEFAULT = 500;
const GUARD_BYTES = 256;
const POISON = 0xa5;

/** For fc.assert. */
export function fuzzParameters(): { numRuns: number } {
  const runs = Number(process.env["EROFSD_FUZZ_RUNS"] ?? RUNS_DEFAULT);
  if (!Number.isSafeInteger(runs) || runs < 1) throw new Error("EROFSD_FUZZ_RUNS is not a count");
  return { numRuns: runs };
}

/** The value `parse` gives, or undefined for a DaemonError. Every other exception is a bug. */
export function valueOrFault<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (error instanceof DaemonError) return undefined;
    throw error;
  }
}

/**
 * Runs `parse` on `bytes` lying in a larger buffer, twice, with other bytes around them: an
 * answer that differs, or a byte written, means that it reaches beyond what it was given.
 */
export function withoutOverreach(bytes: Uint8Array, parse: (bytes: Uint8Array) => unknown): void {
  const answers = [POISON, ~POISON & 0xff].map((poison) => {
    const buffer = new Uint8Array(bytes.length + 2 * GUARD_BYTES).fill(poison);
    buffer.set(bytes, GUARD_BYTES);
    const inside = buffer.subarray(GUARD_BYTES, GUARD_BYTES + bytes.length);
    const answer = JSON.stringify(answerOf(() => parse(inside)));
    const changed = buffer.some((byte, at) => {
      const isInside = at >= GUARD_BYTES && at < GUARD_BYTES + bytes.length;
      return byte !== (isInside ? bytes[at - GUARD_BYTES] : poison);
    });
    if (changed) throw new Error("a parser writes into its input");
    return answer;
  });
  if (answers[0] !== answers[1]) {
    throw new Error(`it depends on bytes outside: ${answers[0]} or ${answers[1]}`);
  }
}

function answerOf(parse: () => unknown): unknown {
  try {
    return { value: parse() };
  } catch (error) {
    if (error instanceof DaemonError) return { fault: error.fault };
    throw error;
  }
}

/** `sound` with up to 16 bytes replaced, and maybe cut or made longer. */
export function mutated(sound: Uint8Array, hotBytes: number): fc.Arbitrary<Uint8Array> {
  const at = fc.oneof(fc.nat(hotBytes - 1), fc.nat(sound.length - 1));
  const edits = fc.array(fc.tuple(at, fc.nat(255)), { maxLength: 16 });
  const cut = fc.oneof(
    { weight: 4, arbitrary: fc.constant(sound.length) },
    fc.nat(sound.length + 64),
  );
  return fc.tuple(edits, cut).map(([changes, length]) => {
    const copy = new Uint8Array(length);
    copy.set(sound.subarray(0, length));
    for (const [offset, byte] of changes) if (offset < length) copy[offset] = byte;
    return copy;
  });
}
