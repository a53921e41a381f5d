// SPDX-License-Identifier: Apache-2.0
// Proves that the fuzzing is alive: planted parsers, each broken in one way, must be caught.
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DaemonError } from "../../src/errors.ts";
import { fuzzParameters, mutated, valueOrFault, withoutOverreach } from "../support/fuzz.ts";

const SOUND = Uint8Array.from({ length: 64 }, (_, at) => at);

const refuse = (): DaemonError =>
  new DaemonError({ code: "image_invalid", where: "x", detail: "too short" });

/** As it should be: a length byte, then as many bytes. */
function sound(bytes: Uint8Array): number {
  const length = bytes[0];
  if (length === undefined || length >= bytes.length) throw refuse();
  return bytes.subarray(1, 1 + length).reduce((sum, byte) => sum + byte, 0);
}

/** Believes the length byte: reads on behind its input. */
function overreaching(bytes: Uint8Array): number {
  const length = bytes[0];
  if (length === undefined) throw refuse();
  const behind = new Uint8Array(bytes.buffer, bytes.byteOffset + 1, length);
  return behind.reduce((sum, byte) => sum + byte, 0);
}

/** Throws something of its own for one byte in 256. */
function throwing(bytes: Uint8Array): number {
  if (bytes[3] === 0x77) throw new RangeError("unexpected");
  return sound(bytes);
}

function writing(bytes: Uint8Array): number {
  if (bytes.length > 8) bytes[8] = 0;
  return 0;
}

function run(parse: (bytes: Uint8Array) => unknown): void {
  const property = fc.property(mutated(SOUND, 8), (input) => withoutOverreach(input, parse));
  // A fixed seed: whether these are caught must not be a matter of luck.
  fc.assert(property, { ...fuzzParameters(), numRuns: 5_000, seed: 1 });
}

describe("the canary", () => {
  it("lives as long as the parser is right", () => {
    run(sound);
  });

  it.each([
    ["reads behind its input", overreaching],
    ["throws what is not a fault", throwing],
    ["writes into its input", writing],
  ])("dies of a parser that %s", (_, parse) => {
    expect(() => run(parse)).toThrow(/seed/);
  });

  it("dies of another exception outside buffers too", () => {
    const parse = (text: string): unknown => JSON.parse(text);
    const property = fc.property(fc.string(), (text) => {
      valueOrFault(() => parse(text));
    });
    expect(() => fc.assert(property, fuzzParameters())).toThrow(/seed/);
  });
});
