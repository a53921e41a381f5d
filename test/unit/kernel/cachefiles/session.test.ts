// SPDX-License-Identifier: Apache-2.0
// Every message is answered once and every fd closed once, whatever happens in between.

import { beforeEach, describe, expect, test } from "vitest";
import { DaemonError } from "../../../../src/errors.ts";
import { CachefilesSession } from "../../../../src/kernel/cachefiles/session.ts";
import type {
  KernelHandler,
  KernelObject,
  OpenRequest,
  ReadRequest,
} from "../../../../src/kernel/transport.ts";
import { codeOf } from "../../../support/fault-code.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import {
  closeMessage,
  message,
  openMessage,
  patched,
  readMessage,
} from "../../../support/kernel-messages.ts";
import { QuietLog } from "../../../support/quiet-log.ts";
import { DEVICE_FD, ScriptedNative, errnoError } from "../../../support/scripted-native.ts";
import { turns } from "../../../support/turns.ts";

const stopping = new DaemonError({ code: "stopping" });
const notFound = new DaemonError({ code: "key_unknown", key: "k", detail: "d" });

class Recorder implements KernelHandler {
  readonly opens: OpenRequest[] = [];
  readonly reads: ReadRequest[] = [];
  readonly closes: KernelObject[] = [];

  open(request: OpenRequest): void {
    this.opens.push(request);
  }

  read(request: ReadRequest): void {
    this.reads.push(request);
  }

  closed(object: KernelObject): void {
    this.closes.push(object);
  }
}

let native: ScriptedNative;
let handler: Recorder;
let log: QuietLog;
let fatal: DaemonError[];
let session: CachefilesSession;

beforeEach(() => {
  native = new ScriptedNative();
  handler = new Recorder();
  log = new QuietLog();
  fatal = [];
  session = new CachefilesSession({ native, clock: new FakeClock(), log, deviceFd: DEVICE_FD });
  session.start(handler, (error) => {
    fatal.push(error);
  });
});

/** Opens an object and accepts it. */
function accepted(ids: { msgId: number; objectId: number; fd: number }): KernelObject {
  native.deliver(openMessage(ids));
  const object = handler.opens.at(-1)?.accept(8192);
  if (object === undefined) throw new Error("not accepted");
  return object;
}

describe("an OPEN", () => {
  test("accepted is answered with its size, and its object takes READs", () => {
    const object = accepted({ msgId: 4, objectId: 9, fd: 20 });
    expect(native.commands).toEqual(["copen 4,8192"]);
    native.deliver(readMessage({ msgId: 5, objectId: 9, offset: 4096n }));
    expect(handler.reads[0]?.object).toBe(object);
    expect(handler.reads[0]?.extent).toEqual({ offset: 4096, length: 4096 });
    expect(native.closedFds).toEqual([]);
  });

  test("refused is answered with the fault's errno, and its fd is closed", () => {
    native.deliver(openMessage({ msgId: 4, fd: 20 }));
    handler.opens[0]?.refuse(notFound);
    expect(native.commands).toEqual(["copen 4,-2"]);
    expect(native.closedFds).toEqual([20]);
    expect(handler.opens[0]?.answered).toBe(true);
  });

  test("that the kernel has given up gives no object, and its fd is closed", () => {
    native.refusals.set("copen 4,8192", "EINVAL");
    native.deliver(openMessage({ msgId: 4, fd: 20 }));
    expect(handler.opens[0]?.accept(8192)).toBeUndefined();
    expect([native.closedFds, session.objectCount]).toEqual([[20], 0]);
  });

  test("refused after the kernel gave it up still closes its fd", () => {
    native.refusals.set("copen 4,-2", "EINVAL");
    native.deliver(openMessage({ msgId: 4, fd: 20 }));
    handler.opens[0]?.refuse(notFound);
    expect(native.closedFds).toEqual([20]);
  });

  test("answered twice is a bug that throws, and the kernel hears only the first answer", () => {
    native.deliver(openMessage({ msgId: 4, fd: 20 }));
    handler.opens[0]?.accept(8192);
    expect(() => handler.opens[0]?.refuse(notFound)).toThrow("answered twice");
    expect(() => handler.opens[0]?.accept(8192)).toThrow("answered twice");
    expect([native.commands, native.closedFds]).toEqual([["copen 4,8192"], []]);
  });

  test("that is malformed is failed, and its fd is closed", () => {
    native.deliver(patched(openMessage({ msgId: 6, fd: 21 }), 20, 0));
    expect([native.commands, native.closedFds]).toEqual([["copen 6,-22"], [21]]);
    expect([handler.opens.length, session.messages.malformed]).toEqual([0, 1]);
  });
});

describe("a READ", () => {
  test("is completed once, by whoever answers first", () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 5, objectId: 9 }), readMessage({ msgId: 6, objectId: 9 }));
    handler.reads[0]?.complete();
    handler.reads[1]?.fail(notFound);
    expect(native.completed).toEqual(["20:5", "20:6"]);
    expect(() => handler.reads[0]?.fail(notFound)).toThrow("answered twice");
    expect(native.completed).toHaveLength(2);
  });

  test("of a killed reader takes its answer silently", () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 5, objectId: 9 }));
    native.refusals.set("ioctl 5", "EINVAL");
    handler.reads[0]?.complete();
    expect(log.lines.filter(({ level }) => level === "error")).toEqual([]);
  });

  test("whose answer the kernel refuses otherwise is logged and does not throw", () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 5, objectId: 9 }));
    native.refusals.set("ioctl 5", "EIO");
    handler.reads[0]?.complete();
    expect(log.messages("error")).toHaveLength(1);
  });

  test("sent a second time with the same msg_id is served once", () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 5, objectId: 9 }), readMessage({ msgId: 5, objectId: 9 }));
    expect(handler.reads).toHaveLength(1);
    handler.reads[0]?.complete();
    native.deliver(readMessage({ msgId: 5, objectId: 9 }));
    expect(handler.reads).toHaveLength(2);
  });

  test("for an object that is not open is logged, and the rest goes on", () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 5, objectId: 77 }), readMessage({ msgId: 6, objectId: 9 }));
    expect(handler.reads.map(({ object }) => object.id)).toEqual([9]);
    expect(log.messages("warn")).toHaveLength(1);
  });

  test("that is malformed is completed without data", () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 5, objectId: 9, offset: 100n }));
    expect([native.completed, handler.reads.length]).toEqual([["20:5"], 0]);
  });
});

describe("a CLOSE", () => {
  test("closes the fd, takes pending READs back and tells the handler", async () => {
    const object = accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 5, objectId: 9 }), closeMessage({ objectId: 9 }));
    await turns();
    expect([native.closedFds, session.objectCount]).toEqual([[20], 0]);
    expect(handler.closes).toEqual([object]);
    handler.reads[0]?.complete();
    handler.reads[0]?.fail(notFound);
    expect([native.completed, handler.reads[0]?.answered]).toEqual([[], true]);
  });

  test("keeps the fd open until a write under way has ended", async () => {
    const object = accepted({ msgId: 1, objectId: 9, fd: 20 });
    const write = object.write(new Uint8Array(4096), {
      bytesOffset: 0,
      length: 4096,
      fileOffset: 0,
    });
    native.deliver(closeMessage({ objectId: 9 }));
    await turns();
    expect(native.closedFds).toEqual([]);
    native.jobs[0]?.resolve();
    await write.catch(() => undefined);
    await turns();
    expect(native.closedFds).toEqual([20]);
  });

  test.each([77, 0xffff_ffff])("of the unknown object %d is ignored", (objectId) => {
    native.deliver(closeMessage({ objectId }));
    expect([handler.closes, native.closedFds]).toEqual([[], []]);
  });
});

describe("the device", () => {
  test("gives its turn back after 64 messages, and goes on when it is ready again", () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    const reads = Array.from({ length: 100 }, (_, i) =>
      readMessage({ msgId: 10 + i, objectId: 9 }),
    );
    native.deliver(...reads);
    expect(handler.reads).toHaveLength(64);
    native.deliver();
    expect(handler.reads).toHaveLength(100);
  });

  test("that fails is fatal, once", () => {
    native.deliver(errnoError("read", "EBADF"));
    native.deliver(errnoError("read", "EBADF"));
    expect(fatal.map(codeOf)).toEqual(["syscall_failed"]);
    expect(native.watchers).toBe(0);
  });

  test.each(["EMFILE", "ENFILE"])(
    "that has no fd for an OPEN (%s) goes on with the next",
    (name) => {
      native.deliver(errnoError("read", name), openMessage({ msgId: 4 }));
      expect([fatal, handler.opens.length]).toEqual([[], 1]);
      expect(log.messages("error")).toHaveLength(1);
    },
  );

  test("survives an unknown message", () => {
    native.deliver(message(9, { msgId: 3 }, new Uint8Array(0)), openMessage({ msgId: 4 }));
    expect(handler.opens).toHaveLength(1);
  });
});

describe("stop", () => {
  test("refuses every OPEN and completes every READ, delivered or not, then closes all fds", async () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(openMessage({ msgId: 2, fd: 21 }), readMessage({ msgId: 3, objectId: 9 }));
    native.messages.push(openMessage({ msgId: 4, fd: 22 }), readMessage({ msgId: 5, objectId: 9 }));
    await session.stop(stopping);
    expect(native.commands.slice(1).toSorted()).toEqual(["copen 2,-5", "copen 4,-5"]);
    expect(native.completed.toSorted()).toEqual(["20:3", "20:5"]);
    expect(native.closedFds.toSorted((a, b) => a - b)).toEqual([DEVICE_FD, 20, 21, 22]);
    expect(native.closedFds.at(-1)).toBe(DEVICE_FD);
    expect([handler.opens.length, handler.reads.length, native.watchers]).toEqual([2, 1, 0]);
  });

  test("makes answers that come afterwards silent: flow may still hold the requests", async () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(openMessage({ msgId: 2, fd: 21 }), readMessage({ msgId: 3, objectId: 9 }));
    await session.stop(stopping);
    handler.reads[0]?.fail(stopping);
    handler.opens[1]?.refuse(stopping);
    expect(handler.opens[1]?.accept(4096)).toBeUndefined();
    expect(native.completed).toEqual(["20:3"]);
    expect(native.commands.filter((command) => command.startsWith("copen 2,"))).toEqual([
      "copen 2,-5",
    ]);
  });

  test("tells the handler that every object is closed", async () => {
    const object = accepted({ msgId: 1, objectId: 9, fd: 20 });
    await session.stop(stopping);
    expect(handler.closes).toEqual([object]);
  });

  test("one answer that fails does not keep the others from being given", async () => {
    accepted({ msgId: 1, objectId: 9, fd: 20 });
    native.deliver(readMessage({ msgId: 3, objectId: 9 }), readMessage({ msgId: 4, objectId: 9 }));
    native.refusals.set("ioctl 3", "EIO");
    await session.stop(stopping);
    expect(native.completed).toEqual(["20:3", "20:4"]);
    expect(native.closedFds).toContain(DEVICE_FD);
  });

  test("waits for writes under way before the device closes", async () => {
    const object = accepted({ msgId: 1, objectId: 9, fd: 20 });
    const write = object.write(new Uint8Array(4096), {
      bytesOffset: 0,
      length: 4096,
      fileOffset: 0,
    });
    const stopped = session.stop(stopping);
    await turns();
    expect(native.closedFds).toEqual([]);
    native.jobs[0]?.resolve();
    await Promise.allSettled([write, stopped]);
    expect(native.closedFds).toEqual([20, DEVICE_FD]);
  });

  test("twice is harmless", async () => {
    await session.stop(stopping);
    await session.stop(stopping);
    expect(native.closedFds).toEqual([DEVICE_FD]);
  });

  test("before start closes the device", async () => {
    const unused = new CachefilesSession({ native, clock: new FakeClock(), log, deviceFd: 99 });
    await unused.stop(stopping);
    expect(native.closedFds).toEqual([99]);
  });
});
