// SPDX-License-Identifier: Apache-2.0
// The protocol's bytes: what each message means, and that a malformed one still gives whatever
// is needed to fail it.

import { describe, expect, test } from "vitest";
import {
  encodeCommand,
  encodeCopen,
  parseMessage,
} from "../../../../src/kernel/cachefiles/codec.ts";
import {
  closeMessage,
  message,
  openMessage,
  patched,
  readMessage,
} from "../../../support/kernel-messages.ts";

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

describe("a well-formed message", () => {
  test("an OPEN gives its fd and both keys, the volume key without its NUL", () => {
    const bytes = openMessage({
      msgId: 3,
      objectId: 9,
      fd: 11,
      volumeKey: "erofs,d",
      cookieKey: "k/é",
    });
    expect(parseMessage(bytes)).toEqual({
      kind: "open",
      msgId: 3,
      objectId: 9,
      anonFd: 11,
      volumeKey: "erofs,d",
      cookieKey: "k/é",
    });
  });

  test("an OPEN with fd 0 is valid", () => {
    expect(parseMessage(openMessage({ fd: 0 }))).toMatchObject({ kind: "open", anonFd: 0 });
  });

  test("a READ gives its extent, also beyond 4 GiB", () => {
    const bytes = readMessage({
      msgId: 0xffff_ffff,
      objectId: 2,
      offset: 1n << 40n,
      length: 1n << 24n,
    });
    expect(parseMessage(bytes)).toEqual({
      kind: "read",
      msgId: 0xffff_ffff,
      objectId: 2,
      extent: { offset: 2 ** 40, length: 2 ** 24 },
    });
  });

  test("a CLOSE gives its object, also the id -1", () => {
    expect(parseMessage(closeMessage({ msgId: 5, objectId: 0xffff_ffff }))).toEqual({
      kind: "close",
      msgId: 5,
      objectId: 0xffff_ffff,
    });
  });

  test("keys are copies: they outlive the buffer they came in", () => {
    const bytes = openMessage({ cookieKey: "abc" });
    const parsed = parseMessage(bytes);
    bytes.fill(0x7a);
    expect(parsed).toMatchObject({ cookieKey: "abc" });
  });
});

describe("a malformed message", () => {
  test("shorter than a header gives nothing but a reason", () => {
    expect(parseMessage(new Uint8Array(15))).toMatchObject({
      kind: "malformed",
      msgId: undefined,
      opcode: undefined,
    });
  });

  test.each([
    ["a length field that is too large", patched(closeMessage({ msgId: 4 }), 8, 17)],
    ["a length field that is too small", patched(readMessage({ msgId: 4 }), 8, 16)],
    ["an unknown opcode", message(3, { msgId: 4 }, new Uint8Array(0))],
    ["a CLOSE with data", message(1, { msgId: 4 }, new Uint8Array(4))],
    ["a READ that is too short", message(2, { msgId: 4 }, new Uint8Array(8))],
    ["a READ that is too long", message(2, { msgId: 4 }, new Uint8Array(24))],
    ["a READ of nothing", readMessage({ msgId: 4, length: 0n })],
    ["a READ at an odd offset", readMessage({ msgId: 4, offset: 512n })],
    ["a READ of an odd length", readMessage({ msgId: 4, length: 4097n })],
    ["a READ past 2^53", readMessage({ msgId: 4, offset: (1n << 53n) - 4096n, length: 8192n })],
    ["a READ at 2^64 - 4096", readMessage({ msgId: 4, offset: (1n << 64n) - 4096n })],
    ["an OPEN cut before its fixed part ends", message(0, { msgId: 4 }, new Uint8Array(15))],
  ])("%s still gives the msg_id to fail", (_what, bytes) => {
    expect(parseMessage(bytes)).toMatchObject({ kind: "malformed", msgId: 4 });
  });

  const open = openMessage({ msgId: 6, fd: 12, volumeKey: "erofs,d", cookieKey: "key" });
  test.each([
    ["an empty volume key", patched(open, 16, 1)],
    ["an empty cookie key", patched(open, 20, 0)],
    ["key sizes that do not fill it", patched(open, 20, 2)],
    ["key sizes that overflow it", patched(open, 16, -1)],
    ["a volume key without NUL", Uint8Array.from(open, (byte, i) => (i === 39 ? 0x41 : byte))],
    ["a NUL inside the volume key", Uint8Array.from(open, (byte, i) => (i === 33 ? 0 : byte))],
    ["a NUL inside the cookie key", Uint8Array.from(open, (byte, i) => (i === 41 ? 0 : byte))],
    ["a key that is not UTF-8", Uint8Array.from(open, (byte, i) => (i === 41 ? 0xff : byte))],
  ])("an OPEN with %s still gives its msg_id and the fd to close", (_what, bytes) => {
    expect(parseMessage(bytes)).toMatchObject({
      kind: "malformed",
      msgId: 6,
      opcode: 0,
      anonFd: 12,
    });
  });

  test("an OPEN with a negative fd gives no fd to close", () => {
    expect(parseMessage(patched(open, 24, -9))).toMatchObject({
      kind: "malformed",
      msgId: 6,
      anonFd: undefined,
    });
  });
});

describe("commands", () => {
  test("copen carries a size or a negative errno, in decimal", () => {
    expect(text(encodeCopen(7, 8192))).toBe("copen 7,8192");
    expect(text(encodeCopen(0xffff_ffff, 0))).toBe("copen 4294967295,0");
    expect(text(encodeCopen(0, -4095))).toBe("copen 0,-4095");
    expect(text(encodeCopen(1, Number.MAX_SAFE_INTEGER))).toBe("copen 1,9007199254740991");
  });

  test.each([-4096, 1.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY])(
    "copen refuses the result %d, which would fail the OPEN without saying so",
    (result) => {
      expect(() => encodeCopen(1, result)).toThrow(RangeError);
    },
  );

  test("a command has 1 to 4095 bytes, counted in UTF-8", () => {
    expect(encodeCommand("x".repeat(4095))).toHaveLength(4095);
    expect(() => encodeCommand("")).toThrow(RangeError);
    expect(() => encodeCommand("x".repeat(4096))).toThrow(RangeError);
    expect(() => encodeCommand("é".repeat(2048))).toThrow(RangeError);
  });
});
