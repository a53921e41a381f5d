// SPDX-License-Identifier: Apache-2.0
// Whatever bytes the device gives, the parser answers with a message and reads no byte of its
// neighbours. The last test is the canary: the same rig finds a parser that reads too far.

import * as fc from "fast-check";
import { expect, test } from "vitest";
import { type Message, parseMessage } from "../../src/kernel/cachefiles/codec.ts";
import { fuzzRuns } from "../support/fuzz-runs.ts";
import { closeMessage, openMessage, readMessage } from "../support/kernel-messages.ts";

const numRuns = fuzzRuns(2000);
const KINDS = ["open", "read", "close", "malformed"];
const seeds = [
  openMessage(),
  openMessage({ volumeKey: "erofs,x", cookieKey: "é".repeat(90) }),
  readMessage({ offset: 4096n, length: 131_072n }),
  closeMessage(),
];

const mutated = fc
  .tuple(
    fc.constantFrom(...seeds),
    fc.array(fc.tuple(fc.nat(300), fc.integer({ min: 0, max: 255 })), { maxLength: 6 }),
    fc.integer({ min: -4, max: 4 }),
  )
  .map(([seed, edits, grow]) => {
    const bytes = new Uint8Array(Math.max(0, seed.length + grow));
    bytes.set(seed.subarray(0, bytes.length));
    for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
    return bytes;
  });
const anyBytes = fc.oneof(fc.uint8Array({ maxLength: 1100 }), mutated);

/** Parses `bytes` inside a larger buffer whose other bytes are all `poison`. */
function parsedAmid(bytes: Uint8Array, poison: number, parse = parseMessage): Message {
  const around = new Uint8Array(bytes.length + 600).fill(poison);
  around.set(bytes, 300);
  return parse(around.subarray(300, 300 + bytes.length));
}

test("any bytes give a message of a known kind, whatever lies around them", () => {
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const message = parsedAmid(bytes, 0x00);
      expect(KINDS).toContain(message.kind);
      expect(parsedAmid(bytes, 0xff)).toEqual(message);
      expect(parsedAmid(bytes, 0x41)).toEqual(message);
    }),
    { numRuns },
  );
});

test("a message that is served is within the protocol's limits", () => {
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const message = parseMessage(bytes);
      if (message.kind === "read") {
        const { offset, length } = message.extent;
        expect(length).toBeGreaterThan(0);
        expect([offset % 4096, length % 4096]).toEqual([0, 0]);
        expect(Number.isSafeInteger(offset + length)).toBe(true);
      } else if (message.kind === "open") {
        expect(message.anonFd).toBeGreaterThanOrEqual(0);
        const keys = Buffer.byteLength(message.volumeKey) + Buffer.byteLength(message.cookieKey);
        expect(32 + keys + 1).toBe(bytes.length);
      }
    }),
    { numRuns },
  );
});

test("a parser that looks past the end of its message is found", () => {
  const reckless = (bytes: Uint8Array): Message => {
    const message = parseMessage(bytes);
    const next = new Uint8Array(bytes.buffer)[bytes.byteOffset + bytes.byteLength] ?? 0;
    return message.kind === "close" ? { ...message, objectId: next } : message;
  };
  const property = fc.property(anyBytes, (bytes) => {
    expect(parsedAmid(bytes, 0xff, reckless)).toEqual(parsedAmid(bytes, 0x00, reckless));
  });
  expect(() => fc.assert(property, { numRuns: 2000 })).toThrow();
});
