// SPDX-License-Identifier: Apache-2.0
// fanotify events as bytes: what the kernel writes is understood, what it never should is refused.

import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import {
  EVENT_BUFFER_BYTES,
  EVENT_FILE_FLAGS,
  GROUP_FLAGS,
  MARK_ADD,
  MARK_REMOVE,
  PRE_ACCESS,
  RESPONSE_BYTES,
  encodeResponse,
  parseEvents,
} from "../../../../src/kernel/fanotify/codec.ts";
import { addon } from "../../platform/addon.ts";
import { eventBytes } from "../../../support/fanotify-events.ts";

const EVENT = { fd: 21, pid: 4711, offset: 4096n, count: 8192n };
const ACCESS = { kind: "access", fd: 21, pid: 4711, extent: { offset: 4096, length: 8192 } };

describe("parseEvents", () => {
  test("gives each event of a read, in order", () => {
    const second = { ...EVENT, fd: 22, offset: 0n, count: 1n };
    const bytes = Buffer.concat([eventBytes(EVENT), eventBytes(second)]);
    expect(parseEvents(bytes)).toEqual([
      ACCESS,
      { ...ACCESS, fd: 22, extent: { offset: 0, length: 1 } },
    ]);
    expect(parseEvents(new Uint8Array())).toEqual([]);
  });

  test("reads what Linux 6.18 wrote for 512 bytes at 4096", () => {
    const seen =
      "3000000003001800000010000000000015000000363c0000060018000000000000100000000000000010000000000000";
    expect(parseEvents(Buffer.from(seen, "hex"))).toEqual([
      { kind: "access", fd: 21, pid: 0x3c36, extent: { offset: 4096, length: 4096 } },
    ]);
  });

  test("steps over info records that it does not know", () => {
    const other = Buffer.from([1, 0, 8, 0, 9, 9, 9, 9]);
    expect(parseEvents(eventBytes({ ...EVENT, before: other }))).toEqual([ACCESS]);
  });

  test.each([
    ["another version", { version: 4 }, "version 4"],
    ["another kind", { mask: 0x10000n }, "kind 0x10000"],
    ["two kinds", { mask: 0x110000n }, "kind 0x110000"],
    ["no range", { isBare: true }, "does not say which bytes"],
    ["a range past 2^53", { offset: 2n ** 53n }, "past 2^53"],
    ["a sum past 2^64", { offset: 2n ** 64n - 1n, count: 2n ** 64n - 1n }, "past 2^53"],
    ["an info record of no bytes", { before: Buffer.alloc(4) }, "does not fit"],
    ["an info record that is cut", { before: Buffer.from([1, 0, 99, 0]) }, "does not fit"],
  ])("an event with %s is malformed, and its fd is told", (_, change, reason) => {
    const [event, ...rest] = parseEvents(eventBytes({ ...EVENT, ...change }));
    expect(event).toMatchObject({ kind: "malformed", fd: 21 });
    expect(event).toHaveProperty("reason", expect.stringContaining(reason));
    expect(rest).toEqual([]);
  });

  test("a lost event and one without a file have no fd", () => {
    expect(parseEvents(eventBytes({ ...EVENT, fd: -1, mask: 0x4000n }))).toEqual([
      { kind: "overflow" },
    ]);
    expect(parseEvents(eventBytes({ ...EVENT, fd: -1 }))).toMatchObject([
      { kind: "malformed", fd: undefined },
    ]);
  });

  test("a cut read gives what is whole, and the fd of the rest where it can be seen", () => {
    const bytes = Buffer.concat([eventBytes(EVENT), eventBytes({ ...EVENT, fd: 22 })]);
    for (let length = 49; length < 96; length += 1) {
      const fd = length < 72 ? undefined : 22;
      expect(parseEvents(bytes.subarray(0, length))).toMatchObject([
        ACCESS,
        { kind: "malformed", fd },
      ]);
    }
  });
});

test("a response names the event's fd, and a refusal its errno", () => {
  expect(Buffer.from(encodeResponse(21, "allow")).toString("hex")).toBe("1500000001000000");
  expect(Buffer.from(encodeResponse(0x102, "deny")).toString("hex")).toBe("0201000002000005");
});

test("numbers and offsets are those of the kernel's header", () => {
  expect(addon.layout()).toMatchObject({
    eventBytes: 24,
    eventVersion: 3,
    eventVersionOffset: 4,
    eventHeaderBytesOffset: 6,
    eventMaskOffset: 8,
    eventFdOffset: 16,
    eventPidOffset: 20,
    eventPreAccess: PRE_ACCESS,
    eventOverflow: 0x4000,
    infoBytes: 4,
    infoLengthOffset: 2,
    rangeType: 6,
    rangeBytes: 24,
    rangeOffsetOffset: 8,
    rangeCountOffset: 16,
    responseBytes: RESPONSE_BYTES,
    responseAllow: 1,
    responseDenyEio: 2 + constants.errno.EIO * 2 ** 24,
    groupFlags: GROUP_FLAGS,
    markAdd: MARK_ADD,
    markRemove: MARK_REMOVE,
  });
  expect(EVENT_BUFFER_BYTES).toBeGreaterThanOrEqual(48);
  // O_CLOEXEC, O_LARGEFILE and O_RDWR.
  expect(EVENT_FILE_FLAGS).toBe(0o2000000 | 0o100000 | 0o2);
});
