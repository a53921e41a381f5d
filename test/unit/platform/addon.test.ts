// SPDX-License-Identifier: Apache-2.0
// The addon's functions one by one: arguments, results, -errno, and the kernel's layout table.

import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { constants } from "node:fs";
import { constants as osConstants, tmpdir } from "node:os";
import { join } from "node:path";
import ffi from "ffi-napi";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MESSAGE_BYTES_MAX, OPCODE } from "../../../src/kernel/cachefiles/codec.ts";
import { addon } from "./addon.ts";

const { EAGAIN, EBADF, EEXIST, EINVAL, ENODATA, ENOENT, ENOTTY, EPERM, ERANGE } = osConstants.errno;
const bytes = new Uint8Array(4096);
const noop = (): void => undefined;
const pool = new addon.WriterPool(1, 1, noop);

let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofsd-addon-"));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

/** A FIFO open for both ends, non-blocking: what is written to it can be read from it. */
function openFifo(name: string): number {
  const path = join(directory, name);
  execFileSync("mkfifo", [path]);
  return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
}

function fdFlags(fd: number): number {
  const info = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
  return Number.parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? "", 8);
}

const O_CLOEXEC = 0o2000000;

const refused: [string, () => unknown, typeof TypeError | typeof RangeError, RegExp][] = [
  ["open: no path", () => addon.open(5, 0), TypeError, /^open: "path"/],
  ["open: empty path", () => addon.open("", 0), RangeError, /^open: "path"/],
  ["open: NUL in path", () => addon.open("a\0b", 0), RangeError, /^open: "path"/],
  ["open: flags", () => addon.open("/", "r"), TypeError, /^open: "flags"/],
  ["close: nothing", () => addon.close(), TypeError, /^close: "fd"/],
  ["close: negative", () => addon.close(-1), RangeError, /^close: "fd"/],
  ["close: fraction", () => addon.close(1.5), RangeError, /^close: "fd"/],
  ["close: NaN", () => addon.close(Number.NaN), RangeError, /^close: "fd"/],
  ["close: 2^31", () => addon.close(2 ** 31), RangeError, /^close: "fd"/],
  ["close: bigint", () => addon.close(1n), TypeError, /^close: "fd"/],
  ["write: text", () => addon.write(1, "x"), TypeError, /^write: "bytes"/],
  ["write: other array", () => addon.write(1, new Int8Array(1)), TypeError, /^write: "bytes"/],
  ["readMessage: buffer", () => addon.readMessage(0, []), TypeError, /^readMessage: "buffer"/],
  ["readComplete: -1", () => addon.readComplete(0, -1), RangeError, /^readComplete: "msgId"/],
  ["readComplete: 2^32", () => addon.readComplete(0, 2 ** 32), RangeError, /"msgId"/],
  ["fanotifyInit: flags", () => addon.fanotifyInit(-1, 0), RangeError, /^fanotifyInit: "flags"/],
  ["fanotifyInit: event", () => addon.fanotifyInit(0, 2 ** 32), RangeError, /"eventFlags"/],
  ["fanotifyMark: group", () => addon.fanotifyMark("1", 1, 1, 1), TypeError, /"group"/],
  ["fanotifyMark: flags", () => addon.fanotifyMark(1, 0.5, 1, 1), RangeError, /"flags"/],
  ["fanotifyMark: mask", () => addon.fanotifyMark(1, 1, 2 ** 53, 1), RangeError, /"mask"/],
  ["fanotifyMark: fd", () => addon.fanotifyMark(1, 1, 1, -1), RangeError, /"fd"/],
  ["readEvents: group", () => addon.readEvents(-1, bytes), RangeError, /^readEvents: "group"/],
  ["readEvents: buffer", () => addon.readEvents(1, "x"), TypeError, /^readEvents: "buffer"/],
  ["isOpenElsewhere: fd", () => addon.isOpenElsewhere(null), TypeError, /^isOpenElsewhere: "fd"/],
  ["allocateAligned: 0", () => addon.allocateAligned(0, true), RangeError, /"bytes"/],
  ["allocateAligned: flag", () => addon.allocateAligned(1, 1), TypeError, /"external"/],
  ["isAligned: beyond", () => addon.isAligned(bytes, 4097, 1), RangeError, /"bytesOffset"/],
  ["isAligned: granule", () => addon.isAligned(bytes, 0, 0), RangeError, /"granule"/],
  ["FdWatcher: fd", () => new addon.FdWatcher("0", noop), TypeError, /^FdWatcher: "fd"/],
  ["FdWatcher: onReady", () => new addon.FdWatcher(0), TypeError, /^FdWatcher: "onReady"/],
  ["WriterPool: threads", () => new addon.WriterPool(0, 1, noop), RangeError, /"threads"/],
  ["WriterPool: queueMax", () => new addon.WriterPool(1, 0, noop), RangeError, /"queueMax"/],
  ["WriterPool: onDone", () => new addon.WriterPool(1, 1, null), TypeError, /"onDone"/],
  ["pwrite: fd", () => pool.pwrite(-1, bytes, 0, 1, 0, 1), RangeError, /^pwrite: "fd"/],
  ["pwrite: bytes", () => pool.pwrite(1, null, 0, 1, 0, 1), TypeError, /^pwrite: "bytes"/],
  ["pwrite: bytesOffset", () => pool.pwrite(1, bytes, 4097, 0, 0, 1), RangeError, /"bytesOffset"/],
  ["pwrite: length", () => pool.pwrite(1, bytes, 4095, 2, 0, 1), RangeError, /"length"/],
  ["pwrite: past 2^53", () => pool.pwrite(1, bytes, 0, 1, 2 ** 53 - 1, 1), RangeError, /"fileOff/],
  ["pwrite: odd length", () => pool.pwrite(1, bytes, 0, 512, 0, 4096), RangeError, /"length"/],
  ["pwrite: odd offset", () => pool.pwrite(1, bytes, 0, 4096, 512, 4096), RangeError, /"fileOff/],
  ["seek: offset", () => pool.seek(1, -1, 0), RangeError, /^seek: "offset"/],
  ["seek: whence", () => pool.seek(1, 0, 5), RangeError, /^seek: "whence"/],
  ["extents: from", () => pool.extents(1, 0.5, 1, 1), RangeError, /^extents: "from"/],
  ["extents: size", () => pool.extents(1, 0, 2 ** 53, 1), RangeError, /"sizeBytes"/],
  ["extents: maxExtents", () => pool.extents(1, 0, 1, 0), RangeError, /"maxExtents"/],
];

describe("a wrong argument names the function and itself:", () => {
  test.each(refused)("%s", (_, call, kind, message) => {
    expect(call).toThrow(kind);
    expect(call).toThrow(message);
  });
});

describe("device calls", () => {
  test("open sets O_CLOEXEC, whatever the flags", () => {
    const fd = addon.open("/dev/null", constants.O_RDONLY);
    expect(fdFlags(fd) & O_CLOEXEC).toBe(O_CLOEXEC);
    expect(addon.close(fd)).toBe(0);
  });

  test("what fails gives -errno", () => {
    expect(addon.open("/nowhere/at/all", 0)).toBe(-ENOENT);
    const fd = addon.open("/dev/null", constants.O_RDWR);
    expect(addon.readComplete(fd, 0xffff_ffff)).toBe(-ENOTTY);
    addon.close(fd);
    expect(addon.close(fd)).toBe(-EBADF);
    expect(addon.write(fd, bytes)).toBe(-EBADF);
    expect(addon.readMessage(fd, bytes)).toBe(-EBADF);
    expect(addon.readComplete(fd, 0)).toBe(-EBADF);
  });

  test("write and readMessage move exactly the array's bytes", () => {
    const fd = openFifo("bytes");
    const buffer = new Uint8Array(16);
    expect(addon.readMessage(fd, buffer)).toBe(-EAGAIN);
    expect(addon.write(fd, Buffer.from("xxabcxx").subarray(2, 5))).toBe(3);
    expect(addon.readMessage(fd, buffer.subarray(4))).toBe(3);
    expect(Buffer.from(buffer).toString("latin1")).toBe("\0\0\0\0abc".padEnd(16, "\0"));
    closeSync(fd);
  });
});

describe("FD_CLOEXEC of the fd an OPEN message carries", () => {
  const libc = ffi.Library(null, { dup: ["int", ["int"]] });

  /** Reads a message of `length` bytes naming a fresh fd that lacks FD_CLOEXEC; its flag after. */
  function cloexecAfter(opcode: number, length: number): boolean {
    const fifo = openFifo(`open-${opcode}-${length}`);
    const source = openSync("/dev/null", "r");
    const carried = libc.dup(source);
    expect(fdFlags(carried) & O_CLOEXEC).toBe(0);
    const words = new Uint32Array([7, opcode, length, 1, 1, 1, carried, 0]);
    addon.write(fifo, new Uint8Array(words.buffer, 0, length));
    expect(addon.readMessage(fifo, new Uint8Array(1024))).toBe(length);
    const set = (fdFlags(carried) & O_CLOEXEC) !== 0;
    for (const fd of [carried, source, fifo]) closeSync(fd);
    return set;
  }

  test("is set when readMessage returns", () => {
    expect(cloexecAfter(OPCODE.open, 32)).toBe(true);
    expect(cloexecAfter(OPCODE.open, 28)).toBe(true);
  });

  test("is not set for another opcode, nor when the message ends before the fd", () => {
    expect(cloexecAfter(OPCODE.read, 32)).toBe(false);
    expect(cloexecAfter(OPCODE.open, 27)).toBe(false);
  });
});

describe("aligned memory", () => {
  test.each([true, false])("is zeroed and begins at a page boundary (external: %s)", (external) => {
    const memory = addon.allocateAligned(10_000, external);
    expect(memory).toBeInstanceOf(Uint8Array);
    expect(memory.length).toBe(10_000);
    expect(memory.every((byte) => byte === 0)).toBe(true);
    expect(addon.isAligned(memory, 0, 4096)).toBe(true);
    expect(addon.isAligned(memory, 512, 4096)).toBe(false);
    expect(addon.isAligned(memory, 512, 512)).toBe(true);
  });

  test("that is not aligned is refused by a write that wants it aligned", () => {
    const memory = addon.allocateAligned(8192, true);
    expect(() => pool.pwrite(1, memory, 512, 4096, 0, 4096)).toThrow(/"bytesOffset" must give/);
  });
});

describe("fanotify calls", () => {
  test("what fails gives -errno", () => {
    const fd = openSync(join(directory, "unmarked"), "w");
    expect(addon.fanotifyInit(0xffff_ffff, 0)).toBe(-EINVAL);
    expect(addon.fanotifyMark(fd, 1, 1, fd)).toBe(-EINVAL);
    closeSync(fd);
    expect(addon.fanotifyMark(fd, 1, 1, fd)).toBe(-EBADF);
    expect(addon.readEvents(fd, bytes)).toBe(-EBADF);
    expect(addon.isOpenElsewhere(fd)).toBe(-EBADF);
  });

  test("nothing to read is 0", () => {
    const fifo = openFifo("no-events");
    expect(addon.readEvents(fifo, bytes)).toBe(0);
    closeSync(fifo);
  });

  test("a file that others have open is told, whatever they opened it for", () => {
    const path = join(directory, "shared");
    const fd = openSync(path, "w+");
    expect(addon.isOpenElsewhere(fd)).toBe(0);
    for (const how of ["r", "r+"]) {
      const other = openSync(path, how);
      expect(addon.isOpenElsewhere(fd)).toBe(1);
      closeSync(other);
      expect(addon.isOpenElsewhere(fd)).toBe(0);
    }
    expect(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8")).not.toContain("LEASE");
    closeSync(fd);
  });
});

test("an FdWatcher that cannot poll says so: a regular file is EPERM", () => {
  const fd = openSync(join(directory, "regular"), "w");
  const watcher = new addon.FdWatcher(fd, noop);
  expect(watcher.start()).toBe(-EPERM);
  watcher.close();
  expect(watcher.start()).toBe(-EBADF);
  closeSync(fd);
});

test("the kernel's layout is what the parser expects", () => {
  expect(addon.layout()).toMatchObject({
    messageBytesMax: MESSAGE_BYTES_MAX,
    opcodeOpen: OPCODE.open,
    opcodeClose: OPCODE.close,
    opcodeRead: OPCODE.read,
    readCompleteIoctl: 0x4004_9801,
    headerBytes: 16,
    msgIdOffset: 0,
    opcodeOffset: 4,
    lengthOffset: 8,
    objectIdOffset: 12,
    openBytes: 16,
    openVolumeKeySizeOffset: 0,
    openCookieKeySizeOffset: 4,
    openFdOffset: 8,
    openFlagsOffset: 12,
    readBytes: 16,
    readOffsetOffset: 0,
    readLengthOffset: 8,
  });
});

test("attributes are set and read, and a rename replaces nothing", async () => {
  const [one, two] = [join(directory, "one"), join(directory, "two")];
  for (const path of [one, two]) closeSync(openSync(path, "w"));
  expect(await addon.setAttribute(one, "user.erofsd", bytes.subarray(0, 3))).toBe(0);
  expect(await addon.getAttribute(one, "user.erofsd", 3)).toEqual([3, new Uint8Array(3)]);
  expect(await addon.getAttribute(one, "user.erofsd", 2)).toEqual([-ERANGE, new Uint8Array()]);
  expect(await addon.getAttribute(two, "user.erofsd", 2)).toEqual([-ENODATA, new Uint8Array()]);
  expect(await addon.renameNew(one, two)).toBe(-EEXIST);
  expect(await addon.renameNew(one, `${two}-new`)).toBe(0);
  expect(await addon.renameNew(one, `${two}-new`)).toBe(-ENOENT);
  expect(() => addon.renameNew("a\0b", two)).toThrow(RangeError);
  expect(() => addon.getAttribute(two, "user.erofsd", 0)).toThrow(RangeError);
});
