// SPDX-License-Identifier: Apache-2.0
// Which cache files go when room is short, in real directories. The limit is a size: what the
// filesystem has free is tested on one of our own (test/host/cache-room.test.ts).

import { mkdir, readdir, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { streamsDirectory } from "../../../../src/kernel/fanotify/names.ts";
import { CacheRoom, type CacheRoomParts } from "../../../../src/kernel/fanotify/room.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { QuietLog } from "../../../support/quiet-log.ts";
import { tempDir } from "../../../support/temp-dir.ts";

const FILE_BYTES = 1 << 20;
const LOOK_EVERY_MS = 2000;
const NO_LIMITS = { brun: 0, bcull: 0, bstop: 0, frun: 0, fcull: 0, fstop: 0 };
/** Of names used in this order, and of no importance else. */
const NAMES = ["k-c", "d-a", "k-b", "d-d"];

let directory: string;
let log: QuietLog;
let clock: FakeClock;
let parts: Omit<CacheRoomParts, "limits">;
let isMounted: (path: string) => boolean;

beforeEach(async () => {
  const cacheDir = await tempDir();
  directory = streamsDirectory(cacheDir);
  await mkdir(directory, { recursive: true });
  log = new QuietLog();
  clock = new FakeClock();
  isMounted = () => false;
  const native = { isOpenElsewhere: () => isMounted("") };
  parts = { native, clock, log, cacheDir, readTimeoutMs: 10_000 };
  for (const [at, name] of NAMES.entries()) {
    await writeFile(join(directory, name), Buffer.alloc(FILE_BYTES, 1));
    await writeFile(join(directory, `${name}.record`), "r");
    await utimes(join(directory, `${name}.record`), 1000 + at, 1000 + at);
  }
});

const left = async (): Promise<string[]> => {
  const names = (await readdir(directory)).filter((name) => !name.includes("."));
  return NAMES.filter((name) => names.includes(name));
};

/** Room for so many of the files. */
function roomFor(files: number): CacheRoom {
  return new CacheRoom({ ...parts, limits: { ...NO_LIMITS, size: (files + 0.5) * FILE_BYTES } });
}

describe("a cache that is larger than it may be", () => {
  test("loses what was used longest ago, with its record, and no more than it must", async () => {
    const room = roomFor(2);
    expect(await room.makeRoom()).toBe(true);
    expect(await left()).toEqual(["k-b", "d-d"]);
    expect((await readdir(directory)).toSorted()).toEqual([
      "d-d",
      "d-d.record",
      "k-b",
      "k-b.record",
    ]);
  });

  test("keeps what is open, and lets it go later", async () => {
    const room = roomFor(1);
    const letGo = await Promise.all(["k-c", "k-c", "k-b"].map((name) => room.keep(name)));
    await room.makeRoom();
    expect(await left()).toEqual(["k-c", "k-b"]);
    letGo[0]?.();
    letGo[0]?.();
    await room.makeRoom();
    expect(await left()).toEqual(["k-c", "k-b"]);
    letGo[1]?.();
    await room.makeRoom();
    expect(await left()).toEqual(["k-b"]);
  });

  test("keeps what the kernel has open though nobody here has", async () => {
    isMounted = () => true;
    expect(await roomFor(1).makeRoom()).toBe(false);
    expect(await left()).toEqual(NAMES);
  });

  test("is looked at while files are written, but not at every write", async () => {
    const room = roomFor(3);
    room.used();
    await expect.poll(left).toEqual(["d-a", "k-b", "d-d"]);
    await writeFile(join(directory, "k-c"), Buffer.alloc(FILE_BYTES, 1));
    room.used();
    await room.check("k");
    expect(await left()).toHaveLength(4);
    await clock.advance(LOOK_EVERY_MS);
    await expect.poll(async () => (await left()).length).toBe(3);
  });

  test("lets nobody open what is being deleted", async () => {
    const room = roomFor(1);
    const made = room.makeRoom();
    const kept = NAMES.map(async (name) => {
      await room.keep(name);
      return (await left()).includes(name);
    });
    await made;
    const after = await left();
    expect(await Promise.all(kept)).toEqual(NAMES.map((name) => after.includes(name)));
  });
});

test("a filesystem that is too full takes nothing new, and says so once", async () => {
  const limits = { ...NO_LIMITS, brun: 102, bcull: 101, bstop: 100 };
  const room = new CacheRoom({ ...parts, limits });
  const letGo = await Promise.all(NAMES.map((name) => room.keep(name)));
  await expect.poll(() => log.lines.filter(({ level }) => level === "error")).toHaveLength(1);
  await expect(room.check("key")).rejects.toMatchObject({ fault: { code: "cache_no_space" } });
  await clock.advance(LOOK_EVERY_MS);
  await expect(room.check("key")).rejects.toMatchObject({ fault: { code: "cache_no_space" } });
  expect(log.lines.filter(({ level }) => level === "error")).toHaveLength(1);
  expect(await left()).toEqual(NAMES);
  for (const each of letGo) each();
});
