// SPDX-License-Identifier: Apache-2.0
// Opens a fanotify group for pre-content events, after trying on a small image in the cache
// directory that this kernel has all that is needed: marks, events that say which bytes they are
// about, answers, and mounts of plain files. Each refusal becomes one sentence.
// What was seen of it is in kernel-notes/fanotify-setup.md.

import { constants } from "node:fs";
import { mkdir, mkdtemp, open, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DaemonError } from "../../errors.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import { BLOCK_BYTES, alignDown, extentEnd } from "../../units.ts";
import {
  EVENT_BUFFER_BYTES,
  EVENT_FILE_FLAGS,
  type FanotifyEvent,
  GROUP_FLAGS,
  MARK_ADD,
  PRE_ACCESS,
  encodeResponse,
  parseEvents,
} from "./codec.ts";
import { EventJournal } from "./journal.ts";
import { type LeftFile, readLeft } from "./left-files.ts";
import { openDirectory, streamsDirectory } from "./names.ts";

/** statfs(2) f_type: ext4, xfs and btrfs take marks and keep holes apart from zeros. */
const SUITABLE: readonly number[] = [0xef53, 0x58465342, 0x9123683e];
const TRIAL_MS = 5000;

/** The caller's: no event comes, and the directory is free, once the fds are closed. */
export interface OpenGroup {
  readonly groupFd: number;
  readonly lockFd: number;
  readonly journal: EventJournal;
}

/** Mounts an image file nowhere. Fault: syscall_failed. */
export type TryMounting = (path: string) => Promise<string>;

/**
 * Locks and prepares the cache directory. `tryMounting` mounts an image file and lets go of it.
 * Faults: fanotify_unsupported, cache_dir_unsuitable.
 */
export async function openGroup(
  native: Native,
  { cacheDir, tryMounting }: { cacheDir: string; tryMounting: TryMounting },
): Promise<OpenGroup> {
  const lockFd = await lockFiles(native, cacheDir);
  try {
    const groupFd = await openTried(native, { cacheDir, tryMounting });
    return { lockFd, groupFd, journal: EventJournal.create(native) };
  } catch (error) {
    native.close(lockFd);
    throw error;
  }
}

/**
 * As openGroup, with what a daemon before us had: it is in use, so nothing is tried or cleared. The
 * fds are the group's from now on. Faults: as openGroup's; then they are closed.
 */
export async function adoptGroup(
  native: Native,
  given: { cacheDir: string; groupFd: number; journalFd: number | undefined; log: Log },
): Promise<OpenGroup & { readonly left: LeftFile[] }> {
  const { cacheDir, groupFd, journalFd, log } = given;
  let lockFd: number | undefined;
  try {
    lockFd = await lockDirectory(native, cacheDir);
    const left = await readLeft(cacheDir, log);
    if (journalFd !== undefined) {
      return { groupFd, lockFd, left, journal: EventJournal.adopt(native, journalFd) };
    }
    log.error({}, "the keeper has no journal: who waited stays waiting");
    return { groupFd, lockFd, left, journal: EventJournal.create(native) };
  } catch (error) {
    for (const fd of [lockFd, groupFd, journalFd]) if (fd !== undefined) native.close(fd);
    throw error;
  }
}

/** Locks and prepares the cache directory for cache files. Fault: cache_dir_unsuitable. */
export async function lockFiles(native: Native, cacheDir: string): Promise<number> {
  const lockFd = await lockDirectory(native, cacheDir);
  try {
    await prepareDirectories(cacheDir);
    return lockFd;
  } catch (error) {
    native.close(lockFd);
    throw error;
  }
}

/** `work` with the path of a small image in the cache directory, which is gone afterwards. */
export async function withTrialImage<T>(
  cacheDir: string,
  work: (path: string) => Promise<T>,
): Promise<T> {
  const directory = await mkdtemp(join(cacheDir, "fanotify", "trial-"));
  try {
    const path = join(directory, "image");
    await writeFile(path, trialImage());
    return await work(path);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

// Whoever has the lock file open has the lock: the kernel tells, and lets go of it with the process.
async function lockDirectory(native: Native, cacheDir: string): Promise<number> {
  const directory = join(cacheDir, "fanotify");
  let lockFd: number | undefined;
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    lockFd = native.open(join(directory, "lock"), constants.O_RDWR | constants.O_CREAT);
    if (!native.isOpenElsewhere(lockFd)) return lockFd;
  } catch (error) {
    if (lockFd !== undefined) native.close(lockFd);
    throw unprepared(error, cacheDir);
  }
  native.close(lockFd);
  const detail = "another daemon is using it";
  throw new DaemonError({ code: "cache_dir_unsuitable", path: cacheDir, detail });
}

async function openTried(
  native: Native,
  { cacheDir, tryMounting }: { cacheDir: string; tryMounting: TryMounting },
): Promise<number> {
  const group = initGroup(native);
  try {
    await withTrialImage(cacheDir, async (path) => {
      await tryMountingFile(path, tryMounting);
      await tryEvents(native, group, path);
    });
    return group;
  } catch (error) {
    native.close(group);
    throw error;
  }
}

async function prepareDirectories(cacheDir: string): Promise<void> {
  try {
    await mkdir(streamsDirectory(cacheDir), { recursive: true, mode: 0o700 });
    // Links of a daemon that is gone: nobody shall mount by them.
    await rm(openDirectory(cacheDir), { recursive: true, force: true });
    await mkdir(openDirectory(cacheDir), { mode: 0o700 });
    const { type } = await statfs(streamsDirectory(cacheDir));
    if (SUITABLE.includes(type)) return;
    const detail = `its filesystem (0x${type.toString(16)}) is none of ext4, xfs and btrfs`;
    throw new DaemonError({ code: "cache_dir_unsuitable", path: cacheDir, detail });
  } catch (error) {
    throw unprepared(error, cacheDir);
  }
}

/** The fault that says why `path` cannot be a cache directory; one that says so is left as it is. */
export function unprepared(error: unknown, path: string): unknown {
  if (error instanceof DaemonError && error.fault.code === "cache_dir_unsuitable") return error;
  const detail = `cannot be prepared: ${error instanceof Error ? error.message : String(error)}`;
  return new DaemonError({ code: "cache_dir_unsuitable", path, detail }, { cause: error });
}

function initGroup(native: Native): number {
  try {
    return native.fanotifyInit(GROUP_FLAGS, EVENT_FILE_FLAGS);
  } catch (error) {
    throw unsupported(error, "a group for pre-content events", {
      EPERM: "it needs CAP_SYS_ADMIN",
      EINVAL: "this kernel has no permission events",
      ENOSYS: "this kernel has no fanotify",
    });
  }
}

async function tryMountingFile(path: string, tryMounting: TryMounting): Promise<void> {
  try {
    await tryMounting(path);
  } catch (error) {
    throw unsupported(error, "mounting an EROFS image from a file", {
      ENODEV: "this kernel has no EROFS",
      ENOTBLK: "this kernel mounts EROFS from block devices only",
      EPERM: "it needs CAP_SYS_ADMIN",
    });
  }
}

async function tryEvents(native: Native, group: number, path: string): Promise<void> {
  const writer = await open(path, "r+");
  try {
    mark(native, group, writer.fd);
    // Another opening of it: only what is opened after the mark is asked about.
    const reader = await open(path, "r");
    try {
      const wanted = { offset: BLOCK_BYTES, length: 512 };
      const event = firstEvent(native, group);
      const read = reader.read(Buffer.alloc(wanted.length), 0, wanted.length, wanted.offset);
      const [seen, { bytesRead }] = await Promise.all([event, read]);
      const isRight =
        seen.kind === "access" &&
        // Linux 6.18 tells whole pages.
        alignDown(seen.extent.offset, BLOCK_BYTES) === wanted.offset &&
        extentEnd(seen.extent) >= extentEnd(wanted);
      if (isRight && bytesRead === wanted.length) return;
      const detail =
        seen.kind === "malformed" ? seen.reason : "its events are not about what is read";
      throw new DaemonError({ code: "fanotify_unsupported", detail });
    } finally {
      await reader.close();
    }
  } finally {
    await writer.close();
  }
}

function mark(native: Native, group: number, fd: number): void {
  try {
    native.fanotifyMark(group, { flags: MARK_ADD, mask: PRE_ACCESS, fd });
  } catch (error) {
    throw unsupported(error, "marking a file for pre-content events", {
      EINVAL: "this kernel has no pre-content events (Linux 6.14 and newer have)",
      EOPNOTSUPP: "the cache's filesystem has no pre-content events",
    });
  }
}

/** Lets it through; what comes after it too, for a while. */
function firstEvent(native: Native, group: number): Promise<FanotifyEvent> {
  return new Promise((resolve, reject) => {
    const buffer = new Uint8Array(EVENT_BUFFER_BYTES);
    const end = (settle: () => void): void => {
      clearTimeout(timer);
      watcher.close();
      settle();
    };
    const timer = setTimeout(() => {
      const detail = `no event came within ${TRIAL_MS} ms of a marked file's read`;
      end(() => {
        reject(new DaemonError({ code: "fanotify_unsupported", detail }));
      });
    }, TRIAL_MS);
    const watcher = native.watch(group, () => {
      const length = native.readEvents(group, buffer);
      const events = parseEvents(buffer.subarray(0, length));
      for (const event of events) {
        if (event.kind === "overflow" || event.fd === undefined) continue;
        native.write(group, encodeResponse(event.fd, "allow"));
        native.close(event.fd);
      }
      const [first] = events;
      if (first === undefined) return;
      end(() => {
        resolve(first);
      });
    });
  });
}

function unsupported(error: unknown, what: string, reasons: Record<string, string>): unknown {
  if (!(error instanceof DaemonError) || error.fault.code !== "syscall_failed") return error;
  const { errnoName, errno } = error.fault;
  const known = Object.entries(reasons).find(([name]) => name === errnoName)?.[1];
  const detail = `${what}: ${known ?? `${errnoName} (${errno})`}`;
  return new DaemonError({ code: "fanotify_unsupported", detail }, { cause: error });
}

/** Two blocks: a superblock and an empty directory. Source: fs/erofs/erofs_fs.h. */
export function trialImage(): Uint8Array {
  const bytes = new Uint8Array(2 * BLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  const superblock = 1024;
  view.setUint32(superblock, 0xe0f5e1e2, true);
  view.setUint8(superblock + 12, 12);
  // The root's number: inodes begin at block 1, and it is the first.
  view.setUint16(superblock + 14, 0, true);
  view.setBigUint64(superblock + 16, 1n, true);
  view.setUint32(superblock + 36, 2, true);
  view.setUint32(superblock + 40, 1, true);
  // A compact inode: flat, a directory of mode 0755, two links, no bytes.
  view.setUint16(BLOCK_BYTES + 4, 0o040755, true);
  view.setUint16(BLOCK_BYTES + 6, 2, true);
  return bytes;
}
