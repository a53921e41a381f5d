// SPDX-License-Identifier: Apache-2.0
// Finding and making the cache file of a stream, off the event loop. A file is opened only when its
// record is about it; one that is not surely that file is deleted.

import { close, constants, fstat, ftruncate, open } from "node:fs";
import { rm } from "node:fs/promises";
import { promisify } from "node:util";
import { BlockSet } from "../../cache/block-set.ts";
import type { Clock } from "../../platform/clock.ts";
import { errnoNameOf } from "../../platform/errno-name.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../../units.ts";
import { type KeyName, RECORD_SUFFIX } from "./names.ts";
import type { CacheRoom } from "./room.ts";
import { type FileRecord, type RecordHeader, loadRecord } from "./record.ts";

const EXTENTS_MAX = 1 << 16;
const MODE = 0o600;

const openFd = promisify(open);
const closeFd = promisify(close);
const statFd = promisify(fstat);
const truncateFd = promisify(ftruncate);

export interface CacheFileParts {
  readonly native: Pick<Native, "close" | "dataExtents" | "pwriteAligned">;
  readonly clock: Clock;
  readonly log: Log;
  readonly room: Pick<
    CacheRoom,
    "keep" | "check" | "used" | "makeRoom" | "hadRoom" | "untilLater" | "record"
  >;
  readonly path: string;
  readonly key: KeyName;
  /** Of the stream, as its key was accepted with. */
  readonly sizeBytes: number;
}

type TrustParts = Omit<CacheFileParts, "room">;

export interface OpenedFile {
  readonly fd: number;
  readonly id: string;
  readonly header: RecordHeader;
  readonly blocks: BlockSet;
  readonly isRecorded: boolean;
}

/** Undefined when there is no file that may be trusted; what was there is deleted. */
export async function openTrusted(parts: TrustParts): Promise<OpenedFile | undefined> {
  const { path, key, log, sizeBytes } = parts;
  const record = await loadRecord(`${path}${RECORD_SUFFIX}`, { ...key, sizeBytes });
  const fd = await openThere(path);
  if (fd !== undefined) {
    const opened = typeof fd === "string" ? fd : await checkAndKeep(parts, record, fd);
    if (typeof opened !== "string") return opened;
    log.warn({ key: key.cookieKey }, `a cache file is not trusted, and begun anew: ${opened}`);
  }
  await rm(path, { force: true, recursive: true });
  await rm(`${path}${RECORD_SUFFIX}`, { force: true, recursive: true });
  return undefined;
}

/**
 * A file that is mounted, by an fd that becomes its: it is not deleted whatever its record says.
 * What of it cannot be trusted is fetched again, into its place.
 */
export async function openMounted(parts: CacheFileParts, fd: number): Promise<OpenedFile> {
  const { path, key, log, sizeBytes } = parts;
  const record = await loadRecord(`${path}${RECORD_SUFFIX}`, { ...key, sizeBytes });
  const opened = await checkFile(parts, record, fd);
  if (typeof opened !== "string") return opened;
  log.info({ key: key.cookieKey }, `a mounted file is filled anew: ${opened}`);
  return newFile(parts, fd);
}

/** Undefined when nothing is there, and why it is none of our files, where it is not. */
async function openThere(path: string): Promise<number | string | undefined> {
  try {
    return await openFd(path, constants.O_RDWR | constants.O_NOFOLLOW);
  } catch (error) {
    const name = errnoNameOf(error);
    if (name === "ENOENT") return undefined;
    if (name === "ELOOP") return "a link was put in its place";
    if (name === "EISDIR") return "a directory was put in its place";
    throw error;
  }
}

/** As checkFile; `fd` is closed unless it is in what is returned. */
async function checkAndKeep(
  parts: TrustParts,
  record: FileRecord | string,
  fd: number,
): Promise<OpenedFile | string> {
  let opened: OpenedFile | string = "";
  try {
    opened = await checkFile(parts, record, fd);
    return opened;
  } finally {
    if (typeof opened === "string") await closeFd(fd);
  }
}

/** Or why it is not trusted. */
async function checkFile(
  { native, sizeBytes }: TrustParts,
  record: FileRecord | string,
  fd: number,
): Promise<OpenedFile | string> {
  if (typeof record === "string") return record;
  const fileBytes = alignUp(sizeBytes, BLOCK_BYTES);
  const stat = await statFd(fd, { bigint: true });
  if (!stat.isFile()) return "it is no file";
  if (Number(stat.size) !== fileBytes) return `it has ${stat.size} bytes, not ${fileBytes}`;
  const { inode, bornNs, writtenNs, ...known } = record.header;
  if (inode !== String(stat.ino) || bornNs !== String(stat.birthtimeNs)) {
    return "another file was put in its place";
  }
  if (writtenNs !== undefined && writtenNs !== String(stat.mtimeNs)) {
    return "somebody has written into it";
  }
  const blocks = new BlockSet(sizeBytes);
  for (const extent of await dataExtents(native, fd, fileBytes)) {
    for (const part of record.blocks.present(extent)) blocks.add(part);
  }
  const header = { ...known, inode, bornNs };
  return { fd, id: fileId(stat), header, blocks, isRecorded: true };
}

/** 4 KiB granular: a filesystem with smaller blocks may hold a part of one of ours. */
async function dataExtents(
  native: CacheFileParts["native"],
  fd: number,
  sizeBytes: number,
): Promise<Extent[]> {
  const extents: Extent[] = [];
  for (let from = 0; from < sizeBytes; ) {
    const found = await native.dataExtents(fd, { from, sizeBytes, extentsMax: EXTENTS_MAX });
    for (let at = 0; at + 1 < found.length; at += 2) {
      const offset = alignUp(found[at] ?? 0, BLOCK_BYTES);
      from = found[at + 1] ?? sizeBytes;
      const end = from - (from % BLOCK_BYTES);
      if (end > offset) extents.push({ offset, length: end - offset });
    }
    if (found.length < 2 * EXTENTS_MAX) break;
  }
  return extents;
}

/** Rejects with the system's error. */
export async function createFile({ path, key, sizeBytes }: CacheFileParts): Promise<OpenedFile> {
  const { O_RDWR, O_CREAT, O_EXCL } = constants;
  const fd = await openFd(path, O_RDWR | O_CREAT | O_EXCL, MODE);
  try {
    await truncateFd(fd, alignUp(sizeBytes, BLOCK_BYTES));
    return await newFile({ key, sizeBytes }, fd);
  } catch (error) {
    await closeFd(fd);
    throw error;
  }
}

/** Nothing of it is trusted. */
async function newFile(
  { key, sizeBytes }: Pick<CacheFileParts, "key" | "sizeBytes">,
  fd: number,
): Promise<OpenedFile> {
  const stat = await statFd(fd, { bigint: true });
  const [inode, bornNs] = [String(stat.ino), String(stat.birthtimeNs)];
  const header = { ...key, sizeBytes, inode, bornNs };
  return { fd, id: fileId(stat), header, blocks: new BlockSet(sizeBytes), isRecorded: false };
}

/** The `id` of the CacheFile that an fd is open on. */
export function fileId({ dev, ino }: { readonly dev: bigint; readonly ino: bigint }): string {
  return `${dev}:${ino}`;
}
