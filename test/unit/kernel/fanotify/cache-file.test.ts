// SPDX-License-Identifier: Apache-2.0
// Cache files of the fanotify door, on a real filesystem: what is cached comes back, and nothing
// else is trusted.

import {
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { CacheRoom } from "../../../../src/kernel/fanotify/room.ts";
import { CacheFile } from "../../../../src/kernel/fanotify/cache-file.ts";
import {
  cacheFileName,
  openPath,
  parseOpenPath,
  parseStreamPath,
  stemOfFile,
  streamsDirectory,
} from "../../../../src/kernel/fanotify/names.ts";
import type { CacheFileParts } from "../../../../src/kernel/fanotify/stored-file.ts";
import { loadNative } from "../../../../src/platform/native.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { QuietLog } from "../../../support/quiet-log.ts";
import { errnoError } from "../../../support/scripted-native.ts";
import { tempDir } from "../../../support/temp-dir.ts";

const KEY = { volumeKey: "erofs,erofsd", cookieKey: `sha256:${"ab".repeat(32)}` };
const SIZE = 100_000;
const READ_TIMEOUT_MS = 10_000;
const NO_LIMITS = { brun: 0, bcull: 0, bstop: 0, frun: 0, fcull: 0, fstop: 0 };
const native = loadNative({ writerThreads: 1 });
const bytes = native.allocateAligned(16_384).fill(7);

let parts: CacheFileParts;
let clock: FakeClock;
let log: QuietLog;
beforeEach(async () => {
  clock = new FakeClock();
  log = new QuietLog();
  const cacheDir = await tempDir();
  const directory = streamsDirectory(cacheDir);
  await mkdir(directory, { recursive: true });
  const path = join(directory, cacheFileName(KEY, SIZE));
  const room = new CacheRoom({
    native,
    clock,
    log,
    cacheDir,
    limits: NO_LIMITS,
    readTimeoutMs: READ_TIMEOUT_MS,
  });
  parts = { native, clock, log, room, path, key: KEY, sizeBytes: SIZE };
});

async function opened(change: Partial<CacheFileParts> = {}): Promise<CacheFile> {
  const file = await CacheFile.open({ ...parts, ...change });
  onTestFinished(() => file.close());
  return file;
}

/** A file with 16 KiB at 8192, closed in order. */
async function written(): Promise<void> {
  const file = await opened();
  await file.write(bytes, { bytesOffset: 0, length: 16_384, fileOffset: 8192 });
  await file.close();
}

const CACHED = [{ offset: 8192, length: 16_384 }];

describe("a cache file", () => {
  test("found to be wrong while it is recorded for the last time leaves no record", async () => {
    const file = await opened();
    await file.write(bytes, { bytesOffset: 0, length: 4096, fileOffset: 0 });
    let distrusting: Promise<void> | undefined;
    vi.spyOn(parts.room, "record").mockImplementation(async (save) => {
      const saving = save();
      distrusting = file.distrust();
      await saving;
    });
    await file.close();
    await distrusting;
    expect(await readdir(dirname(parts.path))).toEqual([basename(parts.path)]);
  });

  test("is sparse, private, of the stream's size in whole blocks, and holds nothing yet", async () => {
    const file = await opened();
    const { size, blocks, mode } = await stat(parts.path);
    expect([size, blocks, mode & 0o777]).toEqual([102_400, 0, 0o600]);
    expect(file.extents).toEqual([]);
    expect(file.covers({ offset: 0, length: 4096 })).toBe(false);
  });

  test("has what was written, and has it again after it was closed", async () => {
    await written();
    const file = await opened();
    expect(file.extents).toEqual(CACHED);
    const back = await file.read({ offset: 4096, length: 8192 });
    expect(back.subarray(0, 4096).every((byte) => byte === 0)).toBe(true);
    expect(back.subarray(4096).every((byte) => byte === 7)).toBe(true);
    expect(await file.read({ offset: 98_304, length: 999_999 })).toHaveLength(4096);
  });

  test("that is closed while it is written has that too", async () => {
    const file = await opened();
    const writing = file.write(bytes, { bytesOffset: 0, length: 16_384, fileOffset: 8192 });
    await file.close();
    await writing;
    expect((await opened()).extents).toEqual(CACHED);
    expect(log.messages("warn")).toEqual([]);
  });

  test("is recorded while it is in use: a crash costs what came since", async () => {
    const file = await opened();
    await file.write(bytes, { bytesOffset: 0, length: 4096, fileOffset: 0 });
    await recorded(0);
    await file.write(bytes, { bytesOffset: 0, length: 4096, fileOffset: 4096 });
    await recorded(5000);
    await file.write(bytes, { bytesOffset: 0, length: 4096, fileOffset: 8192 });
    const after = await opened();
    expect(after.extents).toEqual([{ offset: 0, length: 8192 }]);
    expect(after.id).toBe(file.id);
  });

  /** Waits for the save that the clock starts. */
  async function recorded(delayMs: number): Promise<void> {
    const before = await readFile(`${parts.path}.record`).catch(() => undefined);
    for (;;) {
      // The save before may not have ended, and it starts the timer of the next.
      await clock.advance(delayMs);
      const now = await readFile(`${parts.path}.record`).catch(() => undefined);
      if (now !== undefined && (before === undefined || !now.equals(before))) return;
    }
  }

  const damages: [string, (path: string) => Promise<unknown>][] = [
    ["its record is gone", (path) => rm(`${path}.record`)],
    ["its record is damaged", (path) => flip(`${path}.record`, 80)],
    ["its record's checksum is damaged", (path) => flip(`${path}.record`, 3)],
    ["its record is cut", (path) => truncate(`${path}.record`, 100)],
    ["its record is empty", (path) => truncate(`${path}.record`, 0)],
    ["it was cut", (path) => truncate(path, 50_000)],
    ["it has grown", (path) => truncate(path, 200_000)],
    ["it was written into", (path) => flip(path, 9000)],
    ["its time was set back", (path) => utimes(path, 1, 1)],
    ["another file is in its place", (path) => replaced(path)],
    ["a link is in its place", (path) => linked(path)],
    ["a directory is in its place", (path) => rm(path).then(() => mkdir(path))],
  ];
  test.each(damages)("is begun anew when %s", async (_, damage) => {
    await written();
    await damage(parts.path);
    const file = await opened();
    expect(file.extents).toEqual([]);
    expect(log.messages("warn")).toEqual([expect.stringContaining("is not trusted")]);
    const all = await file.read({ offset: 0, length: 102_400 });
    expect(all.every((byte) => byte === 0)).toBe(true);
    await file.write(bytes, { bytesOffset: 0, length: 4096, fileOffset: 0 });
    await file.close();
    expect((await opened()).extents).toEqual([{ offset: 0, length: 4096 }]);
  });

  test("is begun anew for another stream that would have its name", async () => {
    await written();
    const other = { ...KEY, cookieKey: "other" };
    expect((await opened({ key: other })).extents).toEqual([]);
  });

  test("does not hold what is a hole in it, whatever its record says", async () => {
    const file = await opened();
    await file.write(bytes, { bytesOffset: 0, length: 16_384, fileOffset: 8192 });
    await recorded(0);
    // Cut and grown: as it may be when the power goes before its blocks are on disk.
    await truncate(parts.path, 12_288);
    await truncate(parts.path, 102_400);
    expect((await opened()).extents).toEqual([{ offset: 8192, length: 4096 }]);
  });
});

describe("a disk without room", () => {
  const first = { bytesOffset: 0, length: 4096, fileOffset: 0 };
  let tries: number;
  let isFull: boolean;

  /** Writes fail while `isFull`. */
  async function onFullDisk(): Promise<CacheFile> {
    [tries, isFull] = [0, true];
    return opened({
      native: {
        ...native,
        pwriteAligned: (...args) => {
          tries += 1;
          if (isFull) return Promise.reject(errnoError("pwrite", "ENOSPC"));
          return native.pwriteAligned(...args);
        },
      },
    });
  }

  /** Until it settles. */
  async function passing<T>(work: Promise<T>): Promise<T> {
    const done = work.then(
      () => true,
      () => true,
    );
    const isAsleep = (): Promise<boolean> =>
      clock.timerSet((delayMs) => delayMs === 200).then(() => false);
    while (!(await Promise.race([done, isAsleep()]))) await clock.advance(200);
    return work;
  }

  test("is waited for, and what is written there then is there", async () => {
    const file = await onFullDisk();
    const writing = file.write(bytes, first);
    for (let n = 0; n < 10; n += 1) {
      await clock.timerSet((delayMs) => delayMs === 200);
      await clock.advance(200);
    }
    expect(tries).toBeGreaterThan(5);
    isFull = false;
    await passing(writing);
    expect(file.extents).toEqual([{ offset: 0, length: 4096 }]);
  });

  test("fails a write after most of a read's time, further ones at once, and later waits again", async () => {
    const file = await onFullDisk();
    let startMs = clock.nowMs();
    const took = async (): Promise<number> => {
      startMs = clock.nowMs();
      await expect(passing(file.write(bytes, first))).rejects.toMatchObject({
        fault: { code: "cache_no_space" },
      });
      return clock.nowMs() - startMs;
    };
    const firstMs = await took();
    expect(firstMs).toBeGreaterThanOrEqual(0.9 * READ_TIMEOUT_MS);
    expect(firstMs).toBeLessThan(READ_TIMEOUT_MS);
    expect(await took()).toBeLessThan(1000);
    await clock.advance(READ_TIMEOUT_MS);
    expect(await took()).toBeGreaterThanOrEqual(0.9 * READ_TIMEOUT_MS);
  });

  test("does not hold up a file that is closed", async () => {
    const file = await onFullDisk();
    const writing = file.write(bytes, first);
    await expect.poll(() => tries, { timeout: 10_000 }).toBeGreaterThan(0);
    const closing = file.close();
    await expect(passing(writing)).rejects.toMatchObject({ fault: { code: "cache_no_space" } });
    await closing;
  });
});

test("names are of safe characters, and differ by volume, key and size", () => {
  const names = [
    cacheFileName(KEY, 1),
    cacheFileName(KEY, 2),
    cacheFileName({ ...KEY, cookieKey: "../../x" }, 1),
    cacheFileName({ volumeKey: "v", cookieKey: "../../x" }, 1),
    cacheFileName({ ...KEY, cookieKey: "ab".repeat(32) }, 1),
  ];
  expect(new Set(names).size).toBe(names.length);
  for (const name of names) expect(name).toMatch(/^[dk]-[0-9a-f]{64}-\d+$/);
});

test("a mount's source is ours only when it is a link of ours", () => {
  const name = `d-${"ab".repeat(32)}-4096`;
  const link = `fanotify/open/0123456789abcdef-12-${name}`;
  expect(parseOpenPath(`/var/lib/erofsd/${link}`)).toEqual({ isWhole: false, name });
  expect(parseOpenPath(`/a/${link}`, "/a")).toEqual({ isWhole: false, name });
  expect(parseOpenPath(`/a/${link}`, "/b")).toBeUndefined();
  expect(parseOpenPath("/fanotify/open/x-1")).toBeUndefined();
  expect(parseOpenPath("/dev/loop0")).toBeUndefined();
  for (const isWhole of [true, false]) {
    const path = openPath("/c", { run: "0123456789abcdef", id: 3, isWhole, file: name });
    expect(parseOpenPath(path, "/c")).toEqual({ isWhole, name });
  }
  const stream = `/c/fanotify/streams/${name}`;
  expect(parseStreamPath(stream, "/c")).toEqual({ isWhole: true, name });
  expect(parseStreamPath(`${stream} (deleted)`, "/c")).toBeUndefined();
  expect(stemOfFile(name)).toBe(`d-${"ab".repeat(32)}`);
});

async function flip(path: string, at: number): Promise<void> {
  const file = await open(path, "r+");
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
  await file.write(Buffer.from([(buffer[0] ?? 0) ^ 1]), 0, 1, at);
  await file.close();
}

async function replaced(path: string): Promise<void> {
  const [content, { atime, mtime }] = [await readFile(path), await stat(path)];
  await rename(path, `${path}.old`);
  await writeFile(path, content);
  await utimes(path, atime, mtime);
}

async function linked(path: string): Promise<void> {
  await rename(path, `${path}.old`);
  await symlink(`${path}.old`, path);
}
