// SPDX-License-Identifier: Apache-2.0
// native.ts over the real addon: writes, seeks and extents on ordinary files, the queue and its
// order, readiness, and errnos as faults.

import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { constants, ftruncateSync, readSync, statSync, writeSync } from "node:fs";
import { constants as osConstants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { MIB } from "../../../src/units.ts";
import { faultFrom, faultOf } from "../../support/faults.ts";
import { AwaitablePool, addon } from "./addon.ts";

const SEEK_END = 2;
const SEEK_DATA = 3;
let native: Native;
let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofsd-native-"));
  native = loadNative({ writerThreads: 4 });
});
afterAll(async () => {
  await native.destroy();
  rmSync(directory, { recursive: true });
});

function patterned(length: number, seed: number): Uint8Array {
  const memory = native.allocateAligned(length);
  for (let i = 0; i < length; i += 1) memory[i] = (i * 31 + (i >> 12) * 7 + seed) & 0xff;
  return memory;
}

describe("pwriteAligned", () => {
  test("writes 8 MiB in one job, and a piece of a buffer where it is told to", async () => {
    const path = join(directory, "big");
    const fd = openSync(path, "w");
    const all = patterned(8 * MIB, 1);
    await native.pwriteAligned(fd, all, { bytesOffset: 0, length: 8 * MIB, fileOffset: 0 });
    expect(Buffer.compare(readFileSync(path), all)).toBe(0);
    await native.pwriteAligned(fd, all, { bytesOffset: 8192, length: 4096, fileOffset: 16 * MIB });
    const written = readFileSync(path).subarray(16 * MIB);
    expect(Buffer.compare(written, all.subarray(8192, 12_288))).toBe(0);
    closeSync(fd);
  });

  test("takes fileOffset as a byte offset past 2^32", async () => {
    const path = join(directory, "far");
    const fd = openSync(path, "w+");
    const bytes = patterned(4096, 9);
    const fileOffset = 2 ** 40;
    await native.pwriteAligned(fd, bytes, { bytesOffset: 0, length: 4096, fileOffset });
    const found = Buffer.alloc(4096);
    expect(readSync(fd, found, 0, 4096, fileOffset)).toBe(4096);
    expect(Buffer.compare(found, bytes)).toBe(0);
    closeSync(fd);
  });

  test("keeps 400 concurrent writes of distinct blocks apart", async () => {
    const path = join(directory, "many");
    const fd = openSync(path, "w");
    const blocks = Array.from({ length: 400 }, (_, i) => patterned(4096, i));
    await Promise.all(
      blocks.map((block, i) => {
        const fileOffset = ((i * 7) % 400) * 4096;
        return native.pwriteAligned(fd, block, { bytesOffset: 0, length: 4096, fileOffset });
      }),
    );
    const content = readFileSync(path);
    for (const [i, block] of blocks.entries()) {
      const at = ((i * 7) % 400) * 4096;
      expect(Buffer.compare(content.subarray(at, at + 4096), block)).toBe(0);
    }
    closeSync(fd);
  });

  test("refuses what is not aligned before anything is written", async () => {
    const path = join(directory, "unaligned");
    const fd = openSync(path, "w");
    const bytes = native.allocateAligned(16_384);
    const wrong = [
      { bytesOffset: 512, length: 4096, fileOffset: 0 },
      { bytesOffset: 0, length: 512, fileOffset: 0 },
      { bytesOffset: 0, length: 4096, fileOffset: 512 },
      { bytesOffset: 12_288, length: 8192, fileOffset: 0 },
    ];
    for (const range of wrong) {
      await expect(native.pwriteAligned(fd, bytes, range)).rejects.toBeInstanceOf(RangeError);
    }
    expect(statSync(path).size).toBe(0);
    closeSync(fd);
  });

  test("rejects with the errno: ENOSPC on a full device, EBADF on a closed fd", async () => {
    const range = { bytesOffset: 0, length: 4096, fileOffset: 0 };
    const full = openSync("/dev/full", "w");
    const bytes = native.allocateAligned(4096);
    const noSpace = await faultFrom(native.pwriteAligned(full, bytes, range));
    expect(noSpace).toMatchObject({ code: "syscall_failed", syscall: "pwrite", errno: 28 });
    closeSync(full);
    const closed = await faultFrom(native.pwriteAligned(full, bytes, range));
    expect(closed).toMatchObject({ code: "syscall_failed", errno: 9, errnoName: "EBADF" });
  });
});

describe("dataExtents and seek", () => {
  test.each([tmpdir(), "/dev/shm"])("find the data of a sparse file in %s", async (parent) => {
    const own = mkdtempSync(join(parent, "erofsd-sparse-"));
    const fd = openSync(join(own, "sparse"), "w+");
    const block = Buffer.alloc(8192, 1);
    for (const at of [0, 65_536, 1_048_576]) writeSync(fd, block, 0, 8192, at);
    ftruncateSync(fd, 2 * MIB);
    const all = await native.dataExtents(fd, { from: 0, sizeBytes: 2 * MIB, extentsMax: 10 });
    expect([...all]).toEqual([0, 8192, 65_536, 73_728, 1_048_576, 1_056_768]);
    const one = await native.dataExtents(fd, { from: 8192, sizeBytes: 2 * MIB, extentsMax: 1 });
    expect([...one]).toEqual([65_536, 73_728]);
    const clipped = await native.dataExtents(fd, { from: 4096, sizeBytes: 69_632, extentsMax: 9 });
    expect([...clipped]).toEqual([4096, 8192, 65_536, 69_632]);
    const none = await native.dataExtents(fd, {
      from: MIB * 1.5,
      sizeBytes: MIB * 2,
      extentsMax: 9,
    });
    expect([...none]).toEqual([]);
    expect(await native.seek(fd, { offset: 0, whence: SEEK_END })).toBe(2 * MIB);
    expect(await native.seek(fd, { offset: 8192, whence: SEEK_DATA })).toBe(65_536);
    const past = await faultFrom(native.seek(fd, { offset: MIB * 1.5, whence: SEEK_DATA }));
    expect(past).toMatchObject({ code: "syscall_failed", syscall: "lseek", errnoName: "ENXIO" });
    closeSync(fd);
    rmSync(own, { recursive: true });
  });

  test("a closed fd rejects with EBADF", async () => {
    const within = { from: 0, sizeBytes: 4096, extentsMax: 1 };
    const fault = await faultFrom(native.dataExtents(2 ** 20, within));
    expect(fault).toMatchObject({ code: "syscall_failed", errnoName: "EBADF" });
  });
});

describe("populate", () => {
  test("makes all of it at once: nothing faults when it is touched, and it holds what it held", async () => {
    const bytes = native.allocateAligned(32 * MIB);
    bytes[5] = 7;
    await native.populate(bytes);
    const before = process.resourceUsage().minorPageFault;
    for (let at = 0; at < bytes.length; at += 4096) bytes[at] = 1;
    // Of 8192 pages; a collection of garbage in between may have some of its own.
    expect(process.resourceUsage().minorPageFault - before).toBeLessThan(1000);
    expect([bytes[0], bytes[5], bytes[6], bytes.at(-1)]).toEqual([1, 7, 0, 0]);
  });

  test("of memory that does not begin with a page is refused", async () => {
    const bytes = native.allocateAligned(8192);
    await expect(native.populate(bytes.subarray(1))).rejects.toThrow("EINVAL");
  });
});

describe("the queue", () => {
  test("refuses more than queueMax waiting jobs with -EAGAIN, and takes them again later", async () => {
    const pool = new AwaitablePool(addon.WriterPool, { threads: 1, queueMax: 2 });
    const fd = openSync(join(directory, "bound"), "w");
    const bytes = native.allocateAligned(MIB);
    // Asking takes microseconds, a job a fraction of a millisecond: a bound of two is met soon,
    // however the threads are scheduled; without a bound all 10,000 would be taken.
    const taken: number[] = [];
    let answer = 0;
    while (answer >= 0 && taken.length < 10_000) {
      answer = pool.raw.pwrite(fd, bytes, 0, MIB, 0, 4096);
      if (answer > 0) taken.push(answer);
    }
    expect(answer).toBe(-osConstants.errno.EAGAIN);
    expect(taken.length).toBeGreaterThanOrEqual(2);
    expect(await Promise.all(taken.map((job) => pool.end(job)))).toEqual(taken.map(() => MIB));
    expect(await pool.end(pool.raw.pwrite(fd, bytes, 0, 4096, 0, 4096))).toBe(4096);
    expect(await pool.end(pool.raw.destroy())).toBe(0);
    closeSync(fd);
  });

  test("with one thread and one place, 200 writes end in the order they came", async () => {
    const narrow = loadNative({ writerThreads: 1, queueMax: 1 });
    const path = join(directory, "fifo-order");
    const fd = openSync(path, "w");
    const order: number[] = [];
    const blocks = Array.from({ length: 200 }, (_, i) => native.allocateAligned(4096).fill(i));
    await Promise.all(
      blocks.map(async (block, i) => {
        await narrow.pwriteAligned(fd, block, { bytesOffset: 0, length: 4096, fileOffset: 0 });
        order.push(i);
      }),
    );
    expect(order).toEqual(blocks.map((_, i) => i));
    // The last to come wrote last.
    expect(readFileSync(path)[0]).toBe(199);
    await narrow.destroy();
    closeSync(fd);
  });

  test("destroy settles every job: done, or ECANCELED", async () => {
    const pool = loadNative({ writerThreads: 1, queueMax: 4 });
    const fd = openSync(join(directory, "destroyed"), "w");
    const bytes = native.allocateAligned(64 * MIB);
    // The only thread is busy with the first: how many others it finds time for is not ours to say.
    const jobs = Array.from({ length: 40 }, (_, n) =>
      pool.pwriteAligned(fd, bytes, {
        bytesOffset: 0,
        length: n === 0 ? 64 * MIB : MIB,
        fileOffset: 0,
      }),
    );
    const settled = Promise.allSettled(jobs);
    await pool.destroy();
    for (const result of await settled) {
      if (result.status === "rejected") {
        expect(result.reason).toMatchObject({ fault: { errnoName: "ECANCELED" } });
      }
    }
    expect((await settled).some(({ status }) => status === "rejected")).toBe(true);
    const late = await faultFrom(pool.seek(fd, { offset: 0, whence: SEEK_END }));
    expect(late).toMatchObject({ errnoName: "ECANCELED" });
    closeSync(fd);
  });

  test("pools and watchers that came and went leave no thread and no fd", async () => {
    const fifo = openFifo("leaks");
    const count = (): [number, number] => [
      readdirSync("/proc/self/fd").length,
      readdirSync("/proc/self/task").length,
    ];
    const before = count();
    for (let i = 0; i < 20; i += 1) {
      const watcher = native.watch(fifo, () => undefined);
      const pool = loadNative({ writerThreads: 8 });
      watcher.close();
      await pool.destroy();
    }
    expect(count()).toEqual(before);
    closeSync(fifo);
  });
});

function openFifo(name: string): number {
  const path = join(directory, name);
  execFileSync("mkfifo", [path]);
  return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
}

describe("watch", () => {
  test("calls again and again until what is there has been read, then not any more", async () => {
    const fifo = openFifo("ready");
    const buffer = new Uint8Array(1);
    const reads: number[] = [];
    let done = (): void => undefined;
    const finished = new Promise<void>((resolve) => {
      done = resolve;
    });
    const watcher = native.watch(fifo, (events) => {
      expect(events).toBe(1);
      reads.push(native.readMessage(fifo, buffer));
      if (buffer[0] === 51) done();
    });
    native.write(fifo, Buffer.from("123"));
    await finished;
    expect(reads).toEqual([1, 1, 1]);
    watcher.close();
    watcher.close();
    native.write(fifo, Buffer.from("4"));
    await native.seek(openNull(), { offset: 0, whence: SEEK_END });
    expect(reads).toHaveLength(3);
    closeSync(fifo);
  });

  test("a watcher closed from within its own callback is not called again", async () => {
    const fifo = openFifo("self-close");
    native.write(fifo, Buffer.from("unread"));
    let calls = 0;
    await new Promise<void>((resolve) => {
      const watcher = native.watch(fifo, () => {
        calls += 1;
        watcher.close();
        resolve();
      });
    });
    await native.seek(openNull(), { offset: 0, whence: SEEK_END });
    expect(calls).toBe(1);
    closeSync(fifo);
  });

  test("stop pauses and start goes on", async () => {
    const fifo = openFifo("pause");
    native.write(fifo, Buffer.from("unread"));
    let calls = 0;
    let called = (): void => undefined;
    const next = (): Promise<void> =>
      new Promise((resolve) => {
        called = resolve;
      });
    const watcher = new addon.FdWatcher(fifo, () => {
      calls += 1;
      watcher.stop();
      called();
    });
    const first = next();
    expect(watcher.start()).toBe(0);
    await first;
    const second = next();
    expect(watcher.start()).toBe(0);
    expect(watcher.start()).toBe(0);
    await second;
    expect(calls).toBe(2);
    watcher.close();
    closeSync(fifo);
  });

  test("what cannot be polled throws", () => {
    const fd = openSync(join(directory, "plain"), "w");
    const fault = faultOf(() => native.watch(fd, () => undefined));
    expect(fault).toMatchObject({ code: "syscall_failed", syscall: "epoll_ctl", errno: 1 });
    closeSync(fd);
  });
});

let nullFd: number | undefined;
function openNull(): number {
  nullFd ??= openSync("/dev/null", "r");
  return nullFd;
}

test("a synchronous call throws its errno by the name the kernel's users know", () => {
  const open = faultOf(() => native.open("/nowhere/at/all", 0));
  expect(open).toMatchObject({ code: "syscall_failed", syscall: "open", errnoName: "ENOENT" });
  expect(faultOf(() => native.readComplete(openNull(), 1))).toMatchObject({ errnoName: "ENOTTY" });
});
