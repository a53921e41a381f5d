// SPDX-License-Identifier: Apache-2.0
// Writes and seeks on an anonymous fd: what ENOBUFS means and when, and when the fd closes.

import { beforeEach, describe, expect, test } from "vitest";
import { CacheObject } from "../../../../src/kernel/cachefiles/cache-object.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { rejectionOf } from "../../../support/fault-code.ts";
import { ScriptedNative } from "../../../support/scripted-native.ts";
import { turns } from "../../../support/turns.ts";

const FD = 20;
const RANGE = { bytesOffset: 0, length: 4096, fileOffset: 8192 };

let native: ScriptedNative;
let clock: FakeClock;
let writes: { writes: number; writtenBytes: number };
let object: CacheObject;

beforeEach(() => {
  native = new ScriptedNative();
  clock = new FakeClock();
  writes = { writes: 0, writtenBytes: 0 };
  object = new CacheObject({
    native,
    clock,
    writes,
    id: 1,
    volumeKey: "erofs,d",
    cookieKey: "key",
    anonFd: FD,
  });
});

const write = (): Promise<void> => object.write(new Uint8Array(4096), RANGE);

describe("a write", () => {
  test("is counted when it has ended", async () => {
    const done = write();
    expect(writes.writes).toBe(0);
    native.jobs[0]?.resolve();
    await done;
    expect(writes).toEqual({ writes: 1, writtenBytes: 4096 });
  });

  test("is tried again while the kernel has no file yet", async () => {
    const done = write();
    for (let i = 0; i < 5; i += 1) {
      native.jobs[0]?.fail("ENOBUFS");
      await clock.advance(20);
    }
    native.jobs[0]?.resolve();
    await done;
    expect([writes.writes, clock.pendingCount]).toEqual([1, 0]);
  });

  test("begun before the first READ is tried again, though the READ came before its ENOBUFS", async () => {
    const done = rejectionOf(write());
    object.markReady();
    native.jobs[0]?.fail("ENOBUFS");
    await clock.advance(20);
    native.jobs[0]?.resolve();
    expect(await done).toBe("resolved");
  });

  test("on a file that never comes fails after a bounded time", async () => {
    const done = rejectionOf(write());
    const startMs = clock.nowMs();
    for (let i = 0; i < 250 && native.jobs[0]?.kind === "pwrite"; i += 1) {
      native.jobs[0].fail("ENOBUFS");
      await clock.advance(20);
    }
    expect(native.jobs[0]?.kind).toBe("seek");
    native.jobs[0]?.fail("ENOBUFS");
    expect(await done).toBe("cache_write_failed");
    expect(clock.nowMs() - startMs).toBeLessThan(10_000);
  });

  test("below bstop is no space: the fd still seeks", async () => {
    object.markReady();
    const done = rejectionOf(write());
    native.jobs[0]?.fail("ENOBUFS");
    await turns();
    native.jobs[0]?.resolve(8192);
    expect(await done).toBe("cache_no_space");
  });

  test.each([
    ["ENOSPC", "cache_no_space"],
    ["EDQUOT", "cache_no_space"],
    ["EIO", "cache_write_failed"],
    ["EINVAL", "cache_write_failed"],
  ])("that fails with %s is %s, at once", async (errnoName, code) => {
    const done = rejectionOf(write());
    native.jobs[0]?.fail(errnoName);
    expect(await done).toBe(code);
    expect([writes.writes, clock.pendingCount]).toEqual([0, 0]);
  });

  test("of a closed object is cancelled without touching the fd", async () => {
    await object.close();
    expect(await rejectionOf(write())).toBe("cancelled");
    expect(native.jobs).toEqual([]);
  });
});

describe("closing", () => {
  test("ends a retry at once and leaves no timer", async () => {
    const done = rejectionOf(write());
    native.jobs[0]?.fail("ENOBUFS");
    await turns();
    await object.close();
    expect(await done).toBe("cancelled");
    expect([native.closedFds, clock.pendingCount]).toEqual([[FD], 0]);
  });

  test("waits for every job under way, and closes once", async () => {
    const jobs = [write(), write(), object.dataExtents(8192)].map(rejectionOf);
    const closing = [object.close(), object.close()];
    await turns();
    expect(native.closedFds).toEqual([]);
    native.jobs[0]?.resolve();
    native.jobs[0]?.fail("ENOBUFS");
    await turns();
    expect(native.closedFds).toEqual([]);
    native.jobs[0]?.fail("EIO");
    await Promise.all([...closing, ...jobs]);
    expect(native.closedFds).toEqual([FD]);
  });

  test("makes READ_COMPLETE a no-op", async () => {
    await object.close();
    object.readComplete(5);
    expect(native.completed).toEqual([]);
  });
});

describe("listing what the file holds", () => {
  test("gives the extents in order", async () => {
    const found = object.dataExtents(20_000);
    native.jobs[0]?.resolve(Float64Array.of(0, 4096, 12_288, 20_480));
    expect(await found).toEqual([
      { offset: 0, length: 4096 },
      { offset: 12_288, length: 8192 },
    ]);
    expect(native.jobs).toEqual([]);
  });

  test("goes on where a full answer ended", async () => {
    const found = object.dataExtents(2 ** 40);
    const full = Float64Array.from({ length: 2 << 16 }, (_, i) => i * 4096);
    native.jobs[0]?.resolve(full);
    await turns();
    native.jobs[0]?.resolve(Float64Array.of(2 ** 39, 2 ** 39 + 4096));
    const extents = await found;
    expect(extents).toHaveLength((1 << 16) + 1);
    expect(extents.at(-1)).toEqual({ offset: 2 ** 39, length: 4096 });
  });

  test("waits for the file, and fails with a cause", async () => {
    const found = rejectionOf(object.dataExtents(8192));
    native.jobs[0]?.fail("ENOBUFS");
    await clock.advance(20);
    native.jobs[0]?.fail("EIO");
    expect(await found).toBe("cache_write_failed");
  });
});
