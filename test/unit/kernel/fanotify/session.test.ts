// SPDX-License-Identifier: Apache-2.0
// The fanotify door with real cache files and a scripted kernel: who is answered, with what, how
// often; when a file is marked, and when it is let go.

import { constants, fstatSync, openSync, readFileSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { DaemonError } from "../../../../src/errors.ts";
import { encodeResponse } from "../../../../src/kernel/fanotify/codec.ts";
import type { OpenedFile } from "../../../../src/kernel/fanotify/open-entry.ts";
import { EventJournal } from "../../../../src/kernel/fanotify/journal.ts";
import { streamsDirectory } from "../../../../src/kernel/fanotify/names.ts";
import { FanotifySession } from "../../../../src/kernel/fanotify/session.ts";
import type {
  KernelHandler,
  KernelObject,
  OpenRequest,
  ReadRequest,
} from "../../../../src/kernel/transport.ts";
import { loadNative } from "../../../../src/platform/native.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { FakeGroup, GROUP_FD, LOCK_FD } from "../../../support/fake-group.ts";
import { eventBytes } from "../../../support/fanotify-events.ts";
import { rejectionOf } from "../../../support/fault-code.ts";
import { QuietLog } from "../../../support/quiet-log.ts";
import { errnoError } from "../../../support/scripted-native.ts";
import { tempDir } from "../../../support/temp-dir.ts";

const KEY = { volumeKey: "erofs,erofsd", cookieKey: `sha256:${"cd".repeat(32)}` };
const SIZE = 20_000;
const PID = 4711;
const EIO = new DaemonError({ code: "registry_failed", host: "h", status: 500, detail: "no" });
const real = loadNative({ writerThreads: 1 });
const bytes = real.allocateAligned(24_576).fill(7);

class Handler implements KernelHandler {
  readonly reads: ReadRequest[] = [];
  readonly closedObjects: KernelObject[] = [];
  opens: OpenRequest[] = [];
  onOpen: (request: OpenRequest) => void = (request) => {
    const object = request.accept(SIZE);
    void object?.dataExtents(SIZE).catch(() => undefined);
  };

  open(request: OpenRequest): void {
    this.opens.push(request);
    this.onOpen(request);
  }
  read(request: ReadRequest): void {
    this.reads.push(request);
  }
  closed(object: KernelObject): void {
    this.closedObjects.push(object);
  }
}

let group: FakeGroup;
let handler: Handler;
let clock: FakeClock;
let log: QuietLog;
let session: FanotifySession;
let cacheDir: string;
let fatal: DaemonError | undefined;

beforeEach(async () => {
  group = new FakeGroup(real);
  handler = new Handler();
  clock = new FakeClock();
  log = new QuietLog();
  fatal = undefined;
  cacheDir = await tempDir();
  await mkdir(join(cacheDir, "fanotify/streams"), { recursive: true });
  const { native } = group;
  const fds = { groupFd: GROUP_FD, lockFd: LOCK_FD, journal: EventJournal.create(native) };
  const limits = { brun: 0, bcull: 0, bstop: 0, frun: 0, fcull: 0, fstop: 0 };
  const readTimeoutMs = 30_000;
  session = new FanotifySession({
    native,
    clock,
    log,
    ...fds,
    cacheDir,
    limits,
    readTimeoutMs,
    pid: PID,
  });
  session.start(handler, (error) => {
    fatal = error;
  });
  onTestFinished(() => session.stop(new DaemonError({ code: "stopping" })));
});

/** An event about the file, with an fd of its own; its number is in the answer. */
function access(file: OpenedFile, of: { offset: number; count: number; pid?: number }): number {
  const fd = openSync(file.path, constants.O_RDONLY);
  const { offset, count, pid = 1 } = of;
  group.deliver(eventBytes({ fd, pid, offset: BigInt(offset), count: BigInt(count) }));
  return fd;
}

const answer = (fd: number, how: "allow" | "deny"): string =>
  Buffer.from(encodeResponse(fd, how)).toString("hex");

const streams = (): string => streamsDirectory(cacheDir);

const links = async (): Promise<string[]> =>
  (await readdir(join(cacheDir, "fanotify/open"))).filter((name) => !name.endsWith(".json"));

const isOpen = (fd: number): boolean => {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
};

const write = (file: OpenedFile, fileOffset: number, length: number): Promise<void> =>
  file.object.write(bytes, { bytesOffset: 0, length, fileOffset });

describe("an access", () => {
  test("waits until it is answered, and then its fd is closed", async () => {
    const file = await session.open(KEY);
    const fd = access(file, { offset: 4096, count: 8192 });
    const [read] = handler.reads;
    expect(read?.extent).toEqual({ offset: 4096, length: 8192 });
    expect(read?.object).toBe(file.object);
    expect([group.answers, isOpen(fd)]).toEqual([[], true]);
    read?.complete();
    expect([group.answers, isOpen(fd)]).toEqual([[answer(fd, "allow")], false]);
    expect(() => read?.complete()).toThrow("answered twice");
  });

  test("that fails is refused with EIO", async () => {
    const file = await session.open(KEY);
    const fd = access(file, { offset: 0, count: 4096 });
    handler.reads[0]?.fail(EIO);
    expect([group.answers, isOpen(fd)]).toEqual([[answer(fd, "deny")], false]);
  });

  test.each([
    ["odd bytes become whole blocks", { offset: 5000, count: 1 }, { offset: 4096, length: 4096 }],
    ["it ends with the file", { offset: 16_384, count: 65_536 }, { offset: 16_384, length: 4096 }],
  ])("%s", async (_, range, extent) => {
    const file = await session.open(KEY);
    access(file, range);
    expect(handler.reads[0]?.extent).toEqual(extent);
    handler.reads[0]?.complete();
  });

  test.each([
    ["behind the end", { offset: 20_480, count: 4096 }],
    ["of nothing", { offset: 4096, count: 0 }],
  ])("%s is let through at once", async (_, range) => {
    const file = await session.open(KEY);
    const fd = access(file, range);
    expect(handler.reads).toEqual([]);
    expect([group.answers, isOpen(fd)]).toEqual([[answer(fd, "allow")], false]);
  });

  test("of our own never waits, and never sees a hole", async () => {
    const file = await session.open(KEY);
    await write(file, 0, 4096);
    const cached = access(file, { offset: 0, count: 4096, pid: PID });
    const hole = access(file, { offset: 0, count: 4097, pid: PID });
    expect(handler.reads).toEqual([]);
    expect(group.answers).toEqual([answer(cached, "allow"), answer(hole, "deny")]);
  });

  test("to a file that is not open is refused", async () => {
    const fd = openSync("/dev/null", constants.O_RDONLY);
    group.deliver(eventBytes({ fd, pid: 1, offset: 0n, count: 1n }));
    expect([group.answers, isOpen(fd)]).toEqual([[answer(fd, "deny")], false]);
  });

  test("whose reader was killed is answered without a fuss", async () => {
    const file = await session.open(KEY);
    const fd = access(file, { offset: 0, count: 1 });
    group.refusal = "ENOENT";
    handler.reads[0]?.complete();
    expect([isOpen(fd), log.messages("error")]).toEqual([false, []]);
  });

  test("that cannot be understood is refused, and counted", () => {
    const fd = openSync("/dev/null", constants.O_RDONLY);
    group.deliver(eventBytes({ fd, pid: 1, offset: 0n, count: 1n, isBare: true }));
    expect([group.answers, isOpen(fd)]).toEqual([[answer(fd, "deny")], false]);
    expect(session.messages.malformed).toBe(1);
  });

  test("that is one too many waits in the kernel", async () => {
    const file = await session.open(KEY);
    for (let n = 0; n < 2048; n += 1) access(file, { offset: 0, count: 1 });
    expect([handler.reads.length, group.isWatched]).toEqual([2048, false]);
    for (const read of handler.reads.slice(0, 1025)) read.complete();
    expect(group.isWatched).toBe(true);
    for (const read of handler.reads.slice(1025)) read.complete();
  });
});

describe("the group", () => {
  test("that loses events ends the daemon: somebody was let through", () => {
    group.deliver(eventBytes({ fd: -1, pid: 0, offset: 0n, count: 0n, mask: 0x4000n }));
    expect(fatal?.fault.code).toBe("kernel_message_invalid");
  });

  test("goes on when an fd could not be given, and ends the daemon when it cannot be read", async () => {
    const file = await session.open(KEY);
    group.deliver(errnoError("read", "EMFILE"));
    expect([fatal, group.isWatched]).toEqual([undefined, true]);
    access(file, { offset: 0, count: 1 });
    expect(handler.reads).toHaveLength(1);
    handler.reads[0]?.complete();
    group.deliver(errnoError("read", "EBADF"));
    expect([fatal?.fault.code, group.isWatched]).toEqual(["syscall_failed", false]);
  });
});

describe("a file", () => {
  test("is marked before it can be mounted, and until all of it is there", async () => {
    const file = await session.open(KEY);
    expect(readFileSync(file.path)).toHaveLength(20_480);
    expect(group.marked.size).toBe(1);
    await write(file, 0, 16_384);
    expect(group.marked.size).toBe(1);
    await write(file, 16_384, 4096);
    expect([group.marked.size, file.object.isComplete]).toEqual([0, true]);
  });

  test("larger than its stream is complete when the stream is", async () => {
    handler.onOpen = (request) => {
      void request.accept(SIZE + 8192)?.dataExtents(SIZE);
    };
    const file = await session.open(KEY);
    await write(file, 0, 20_480);
    expect(group.marked.size).toBe(0);
  });

  test("is one, however many ask for it, and at once", async () => {
    const files = await Promise.all([session.open(KEY), session.open(KEY), session.open(KEY)]);
    expect(new Set(files.map(({ object }) => object)).size).toBe(1);
    expect(handler.opens).toHaveLength(1);
  });

  test("is not let go while it is opened, however long that takes", async () => {
    // Between its mark and its link.
    group.onMark = () => {
      void clock.advance(1000);
    };
    const opening = session.open(KEY);
    const isOpen = opening.then(() => true);
    const later = async (): Promise<boolean> => {
      await clock.advance(1000);
      await new Promise((resolve) => setImmediate(resolve));
      return false;
    };
    while (!(await Promise.race([isOpen, later()]))) continue;
    const file = await opening;
    expect(handler.opens).toHaveLength(1);
    expect(await links()).toEqual([basename(file.path)]);
  });

  test("that is refused is not there: the next try asks again", async () => {
    handler.onOpen = (request) => {
      request.refuse(EIO);
    };
    expect(await rejectionOf(session.open(KEY))).toBe("registry_failed");
    handler.onOpen = (request) => {
      request.accept(SIZE);
    };
    await session.open(KEY);
    expect(handler.opens).toHaveLength(2);
  });

  test("stays while it is held, awaited or mounted, and is let go then", async () => {
    const file = await session.open(KEY);
    const { ino } = fstatSync(openSync(file.path, constants.O_RDONLY), { bigint: true });
    await pass(5000);
    expect(session.objectCount).toBe(1);
    file.release(30_000);
    await pass(29_000);
    expect(session.objectCount).toBe(1);
    group.mounted.add(ino);
    await pass(60_000);
    expect([session.objectCount, group.marked.size]).toEqual([1, 1]);
    group.mounted.clear();
    // Its link is a real one, on a disk that may be slow.
    for (let tries = 0; tries < 100 && session.objectCount > 0; tries += 1) await pass(1000);
    expect([session.objectCount, group.marked.size]).toEqual([0, 0]);
    expect(handler.closedObjects).toEqual([file.object]);
    expect(await readdir(join(cacheDir, "fanotify/open"))).toEqual([]);
    expect(await rejectionOf(write(file, 0, 4096))).toBe("cancelled");
  });

  test("that is mounted while its link goes stays, and has its link again", async () => {
    const file = await session.open(KEY);
    const { ino } = fstatSync(openSync(file.path, constants.O_RDONLY), { bigint: true });
    file.release(0);
    await clock.advance(1000);
    await clock.timerSet((delayMs) => delayMs === 250);
    group.mounted.add(ino);
    await pass(3000);
    expect([session.objectCount, group.marked.size]).toEqual([1, 1]);
    expect(readFileSync(file.path)).toHaveLength(20_480);
    group.mounted.clear();
  });

  test("that somebody asks for while it is let go is opened anew", async () => {
    const file = await session.open(KEY);
    await write(file, 4096, 4096);
    file.release(0);
    await clock.advance(1000);
    await clock.timerSet((delayMs) => delayMs === 250);
    const asked = session.open(KEY);
    await pass(3000);
    const again = await asked;
    expect(again.object).not.toBe(file.object);
    expect(await again.object.dataExtents(SIZE)).toEqual([{ offset: 4096, length: 4096 }]);
    expect(group.marked.size).toBe(1);
  });

  async function pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 100) {
      await clock.advance(100);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

describe("stop", () => {
  const STOPPING = new DaemonError({ code: "stopping" });

  test("refuses who waits, taken or not, and leaves the group last", async () => {
    const file = await session.open(KEY);
    const taken = access(file, { offset: 0, count: 1 });
    const fd = openSync(file.path, constants.O_RDONLY);
    group.events.push(eventBytes({ fd, pid: 1, offset: 0n, count: 1n }));
    const filling = rejectionOf(session.fill(file.object, { offset: 0, length: 4096 }));
    await session.stop(STOPPING);
    expect(group.answers).toEqual([answer(taken, "deny"), answer(fd, "deny")]);
    expect(await filling).toBe("stopping");
    expect([isOpen(taken), isOpen(fd)]).toEqual([false, false]);
    expect(group.closed).toEqual([GROUP_FD, LOCK_FD]);
    handler.reads[0]?.complete();
    expect(group.answers).toHaveLength(2);
    expect(await rejectionOf(session.open(KEY))).toBe("stopping");
  });

  test("refuses an opening that nobody has answered", async () => {
    handler.onOpen = () => undefined;
    const opening = rejectionOf(session.open(KEY));
    await session.stop(STOPPING);
    expect(await opening).toBe("stopping");
    expect(handler.opens[0]?.accept(SIZE)).toBeUndefined();
  });

  test("waits until what was let go before is recorded, as whoever opens it anew does", async () => {
    const file = await session.open(KEY);
    const [writing, goOn] = slowWrite(file, 4096);
    file.release(0);
    while (handler.closedObjects.length === 0) await clock.advance(100);
    const opening = session.open(KEY);
    await clock.advance(100);
    expect(handler.opens).toHaveLength(1);
    goOn();
    await writing;
    const again = await opening;
    expect(await again.object.dataExtents(SIZE)).toEqual([{ offset: 4096, length: 4096 }]);

    const [last, finish] = slowWrite(again, 8192);
    again.release(0);
    while (handler.closedObjects.length === 1) await clock.advance(100);
    const stopping = session.stop(STOPPING).then(() => "stopped");
    expect(await Promise.race([stopping, clock.advance(100)])).toBeUndefined();
    finish();
    await Promise.all([last, stopping]);
    const [record] = (await readdir(streams())).filter((name) => name.endsWith(".record"));
    expect(readFileSync(join(streams(), record ?? ""), "latin1")).toContain('"writtenNs"');
  });

  /** It reaches the disk when `goOn` is called. */
  function slowWrite(file: OpenedFile, fileOffset: number): [Promise<void>, () => void] {
    let goOn: () => void = () => undefined;
    const disk = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    group.beforeWrite = () => disk;
    return [write(file, fileOffset, 4096), goOn];
  }

  test("says which mounted images are not complete", async () => {
    const file = await session.open(KEY);
    group.mounted.add(fstatSync(openSync(file.path, "r"), { bigint: true }).ino);
    await session.stop(STOPPING);
    const [line] = log.lines.filter(({ level }) => level === "error");
    expect(line?.fields).toEqual({ keys: [KEY.cookieKey] });
  });
});
