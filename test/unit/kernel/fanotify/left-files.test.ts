// SPDX-License-Identifier: Apache-2.0
// What a daemon takes up of the one before it: real cache files, links and notes, a scripted
// kernel. Who reads a file that cannot be served yet waits until it is, and not for ever.

import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { DaemonError } from "../../../../src/errors.ts";
import { encodeResponse } from "../../../../src/kernel/fanotify/codec.ts";
import { EventJournal } from "../../../../src/kernel/fanotify/journal.ts";
import { readLeft } from "../../../../src/kernel/fanotify/left-files.ts";
import { FanotifySession } from "../../../../src/kernel/fanotify/session.ts";
import { fileId } from "../../../../src/kernel/fanotify/stored-file.ts";
import type { KernelHandler, OpenRequest, ReadRequest } from "../../../../src/kernel/transport.ts";
import { machineMs } from "../../../../src/platform/clock.ts";
import { loadNative } from "../../../../src/platform/native.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { FakeGroup, GROUP_FD, LOCK_FD } from "../../../support/fake-group.ts";
import { eventBytes } from "../../../support/fanotify-events.ts";
import { QuietLog } from "../../../support/quiet-log.ts";
import { tempDir } from "../../../support/temp-dir.ts";

const KEYS = ["ab", "cd"].map((byte) => {
  return { volumeKey: "erofs,erofsd", cookieKey: `sha256:${byte.repeat(32)}` };
});
const SIZE = 20_000;
const READ_TIMEOUT_MS = 30_000;
const AGAIN_MS = 1000;
const PID = 4711;
const PATIENCE = { timeout: 10_000 };
const limits = { brun: 0, bcull: 0, bstop: 0, frun: 0, fcull: 0, fstop: 0 };
const stopping = new DaemonError({ code: "stopping" });
const real = loadNative({ writerThreads: 1 });

class Handler implements KernelHandler {
  readonly reads: ReadRequest[] = [];
  readonly refused = new Set<string>();

  open(request: OpenRequest): void {
    if (this.refused.has(request.cookieKey)) request.refuse(stopping);
    else void request.accept(SIZE)?.dataExtents(SIZE);
  }
  read(request: ReadRequest): void {
    this.reads.push(request);
  }
  closed(): void {}
}

let group: FakeGroup;
let clock: FakeClock;
let cacheDir: string;
/** Of the cache files, as KEYS. */
let paths: string[];
/** Accesses that the daemon before has taken. */
let journal: EventJournal;

beforeEach(async () => {
  group = new FakeGroup(real);
  clock = new FakeClock();
  cacheDir = await tempDir();
  await mkdir(join(cacheDir, "fanotify/streams"), { recursive: true });
  journal = EventJournal.create(group.native);
  const before = start(new Handler());
  for (const key of KEYS) await before.open(key);
  const streams = join(cacheDir, "fanotify/streams");
  paths = (await readdir(streams)).toSorted().map((name) => join(streams, name));
  for (const path of paths) group.mounted.add(inodeOf(path).ino);
  await before.handOver(stopping);
  group = Object.assign(new FakeGroup(real), { mounted: group.mounted, marked: group.marked });
  journal = EventJournal.create(group.native);
});

function start(handler: Handler, left: Parameters<typeof sessionOf>[0] = []): FanotifySession {
  const session = sessionOf(left);
  session.start(handler, (error) => {
    throw error;
  });
  onTestFinished(() => session.stop(stopping));
  return session;
}

function sessionOf(left: Awaited<ReturnType<typeof readLeft>>): FanotifySession {
  const fds = { groupFd: GROUP_FD, lockFd: LOCK_FD, journal, pid: PID };
  const of = { cacheDir, limits, readTimeoutMs: READ_TIMEOUT_MS, left };
  return new FanotifySession({ native: group.native, clock, log: new QuietLog(), ...fds, ...of });
}

/** The daemon that follows; the files of `refused` cannot be served yet. */
async function follow(refused: readonly { cookieKey: string }[] = []) {
  const handler = new Handler();
  for (const { cookieKey } of refused) handler.refused.add(cookieKey);
  const session = start(handler, await readLeft(cacheDir, new QuietLog()));
  await expect.poll(() => session.objectCount - refused.length, PATIENCE).toBeGreaterThanOrEqual(0);
  return { handler, session };
}

const inodeOf = (path: string) => fstatSync(openSync(path, constants.O_RDONLY), { bigint: true });

function access(path: string): number {
  const fd = openSync(path, constants.O_RDONLY);
  group.deliver(eventBytes({ fd, pid: 1, offset: 0n, count: 4096n }));
  return fd;
}

const answer = (fd: number, how: "allow" | "deny"): string =>
  Buffer.from(encodeResponse(fd, how)).toString("hex");

const links = async (): Promise<string[]> =>
  (await readdir(join(cacheDir, "fanotify/open"))).toSorted();

test("a file that is taken up is mounted by the link that is there: a full disk takes no other", async () => {
  const before = await links();
  const { session } = await follow();
  await expect.poll(() => session.areAllKnown(), PATIENCE).toBe(true);
  expect(await links()).toEqual(before);
  const { path } = await session.open(KEYS[0] ?? { volumeKey: "", cookieKey: "" });
  expect(before.map((name) => join(cacheDir, "fanotify/open", name))).toContain(path);
});

test("whoever reads a file that cannot be served yet waits until it is", async () => {
  const { handler, session } = await follow(KEYS.slice(0, 1));
  const early = access(paths[0] ?? "");
  await expect.poll(() => handler.refused.size > 0 && session.objectCount, PATIENCE).toBe(2);
  // After the first try, too.
  await clock.timerSet((delayMs) => delayMs === AGAIN_MS);
  const late = access(paths[0] ?? "");
  const served = access(paths[1] ?? "");
  await expect.poll(() => handler.reads, PATIENCE).toHaveLength(1);
  handler.reads[0]?.complete();
  expect(group.answers).toEqual([answer(served, "allow")]);
  expect(await session.areAllKnown()).toBe(false);
  handler.refused.clear();
  await clock.advance(AGAIN_MS);
  await expect.poll(() => handler.reads, PATIENCE).toHaveLength(3);
  expect(await session.areAllKnown()).toBe(true);
  for (const read of handler.reads.slice(1)) read.complete();
  expect(group.answers.slice(1)).toEqual([answer(early, "allow"), answer(late, "allow")]);
});

test("and is refused when that takes longer than a read may", async () => {
  await follow(KEYS);
  const fd = access(paths[0] ?? "");
  await clock.advance(READ_TIMEOUT_MS - 1);
  expect(group.answers).toEqual([]);
  await clock.advance(1);
  expect(group.answers).toEqual([answer(fd, "deny")]);
});

test("an access of which only the number is known waits until every file is served", async () => {
  const unknown = openSync("/dev/null", constants.O_RDONLY);
  journal.record(unknown, undefined, { offset: 0, length: 4096 });
  const known = openSync("/dev/null", constants.O_RDONLY);
  journal.record(known, fileId(inodeOf(paths[1] ?? "")), { offset: 4096, length: 4096 });
  const { handler } = await follow(KEYS.slice(0, 1));
  await expect
    .poll(() => handler.reads.map(({ extent }) => extent.offset), PATIENCE)
    .toEqual([4096]);
  handler.reads[0]?.complete();
  await clock.timerSet((delayMs) => delayMs === AGAIN_MS);
  handler.refused.clear();
  await clock.advance(AGAIN_MS);
  // What it waits for is there when it is in every file.
  await expect.poll(() => handler.reads, PATIENCE).toHaveLength(3);
  for (const read of handler.reads.slice(1)) read.complete();
  await expect
    .poll(() => group.answers, PATIENCE)
    .toEqual([answer(known, "allow"), answer(unknown, "allow")]);
});

test("an access that daemons have died over for two deadlines is refused, and one before that is served", async () => {
  const nowMs = machineMs();
  const [old, late] = [0, 1].map(() => openSync("/dev/null", constants.O_RDONLY));
  const file = fileId(inodeOf(paths[0] ?? ""));
  journal.record(old ?? -1, file, { offset: 0, length: 4096 }, nowMs - 2 * READ_TIMEOUT_MS);
  journal.record(late ?? -1, file, { offset: 4096, length: 4096 }, nowMs - 1.5 * READ_TIMEOUT_MS);
  const { handler } = await follow();
  expect(group.answers).toEqual([answer(old ?? -1, "deny")]);
  await expect
    .poll(() => handler.reads.map(({ extent }) => extent.offset), PATIENCE)
    .toEqual([4096]);
  handler.reads[0]?.complete();
  expect(group.answers.slice(1)).toEqual([answer(late ?? -1, "allow")]);
  expect(journal.left()).toEqual([]);
});

describe("a number that is in use here when it is taken up, and is given to an event later,", () => {
  /** Who waits since before, and who has come with the same number; as handler.reads. */
  async function twins() {
    const number = openSync("/dev/null", constants.O_RDONLY);
    const file = fileId(inodeOf(paths[0] ?? ""));
    journal.record(number, file, { offset: 0, length: 4096 });
    const { handler } = await follow();
    await expect.poll(() => handler.reads, PATIENCE).toHaveLength(1);
    closeSync(number);
    for (;;) {
      const fd = openSync(paths[0] ?? "", constants.O_RDONLY);
      if (fd !== number) continue;
      group.deliver(eventBytes({ fd, pid: 1, offset: 8192n, count: 4096n }));
      break;
    }
    expect(handler.reads.map(({ extent }) => extent.offset)).toEqual([0, 8192]);
    return { number, reads: handler.reads };
  }

  test("lets nobody through to what is not there: both wait for both", async () => {
    const { number, reads } = await twins();
    reads[1]?.complete();
    expect(group.answers).toEqual([]);
    reads[0]?.complete();
    expect(group.answers).toEqual([answer(number, "allow"), answer(number, "allow")]);
  });

  test("and refuses both when one fails", async () => {
    const { number, reads } = await twins();
    reads[1]?.complete();
    reads[0]?.fail(stopping);
    expect(group.answers).toEqual([answer(number, "deny"), answer(number, "deny")]);
  });
});
