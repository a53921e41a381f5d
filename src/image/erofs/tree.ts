// SPDX-License-Identifier: Apache-2.0
// Directories of EROFS: the files beneath one, in the order in which their names are stored.
// Each directory is gone through once, so a tree that bites its own tail ends.
// Source: fs/erofs/erofs_fs.h and dir.c of Linux 6.12.

import { BLOCK_BYTES } from "../../units.ts";
import { invalid, liesWithin, u64At, viewOf } from "../rafs/fields.ts";
import { type ErofsReader, type Inode, LAYOUT_INLINE, LAYOUT_PLAIN, flatBytes } from "./inode.ts";

const ENTRY_BYTES = 12;
const TYPE_UNKNOWN = 0;
const TYPE_FILE = 1;
const TYPE_DIRECTORY = 2;
const DOT = 0x2e;
/** A path of PATH_MAX bytes has no more parts. */
const DEPTH_MAX = 2_048;
/** A set of so many numbers takes some 40 MB. */
const DIRECTORIES_MAX = 1_000_000;

export interface Entry {
  readonly nid: number;
  readonly type: number;
  /** As it is stored: any bytes but NUL and "/". */
  readonly name: Uint8Array;
}

/**
 * Nids of the regular files beneath `nid`, or of itself when it is one. `seen` holds the
 * directories that need not be gone through again, and takes those that now were.
 * Fault: image_invalid.
 */
export async function* filesUnder(
  reader: ErofsReader,
  nid: number,
  seen = new Set<number>(),
): AsyncGenerator<number, void> {
  const top = await reader.inode(nid);
  if (top.kind === "file") yield nid;
  const isUnsure = ({ type }: Entry): boolean => type === TYPE_DIRECTORY || type === TYPE_UNKNOWN;
  for await (const { entry, inode } of beneath(reader, top, { seen, isRead: isUnsure })) {
    const isFile = inode === undefined ? entry.type === TYPE_FILE : inode.kind === "file";
    if (isFile) yield entry.nid;
  }
}

/**
 * Every inode beneath the directory `nid`, and itself, of whatever kind; one with several names
 * comes as often. Fault: image_invalid.
 */
export async function* inodesUnder(reader: ErofsReader, nid: number): AsyncGenerator<Inode, void> {
  const top = await reader.inode(nid);
  yield top;
  const all = { seen: new Set<number>(), isRead: () => true };
  for await (const { inode } of beneath(reader, top, all)) if (inode !== undefined) yield inode;
}

/** Each entry beneath `top`, with its inode where `isRead`; only those are gone into. */
async function* beneath(
  reader: ErofsReader,
  top: Inode,
  { seen, isRead }: { seen: Set<number>; isRead: (entry: Entry) => boolean },
): AsyncGenerator<{ readonly entry: Entry; readonly inode: Inode | undefined }, void> {
  const open = enter(reader, top, seen);
  for (;;) {
    const directory = open.at(-1);
    if (directory === undefined) return;
    const { value: entry } = await directory.next();
    if (entry === undefined) {
      open.pop();
      continue;
    }
    const inode = isRead(entry) ? await reader.inode(entry.nid) : undefined;
    yield { entry, inode };
    if (inode === undefined) continue;
    open.push(...enter(reader, inode, seen));
    if (open.length > DEPTH_MAX) {
      throw invalid(reader.file.where, `its directories are nested more than ${DEPTH_MAX} deep`);
    }
  }
}

/** The entries of a directory that has not been gone through; none for anything else. */
function enter(
  reader: ErofsReader,
  inode: Inode,
  seen: Set<number>,
): AsyncGenerator<Entry, void>[] {
  if (inode.kind !== "directory" || seen.has(inode.nid)) return [];
  if (seen.size >= DIRECTORIES_MAX) {
    throw invalid(reader.file.where, `it has more than ${DIRECTORIES_MAX} directories`);
  }
  seen.add(inode.nid);
  return [entriesOf(reader, inode)];
}

/** Of a directory, but for `.` and `..`. Fault: image_invalid. */
export async function* entriesOf(reader: ErofsReader, inode: Inode): AsyncGenerator<Entry, void> {
  const { where, sizeBytes: imageBytes } = reader.file;
  const what = `its directory ${inode.nid}`;
  if (inode.layout !== LAYOUT_PLAIN && inode.layout !== LAYOUT_INLINE) {
    throw invalid(where, `${what} has layout ${inode.layout}`);
  }
  const flat = flatBytes(inode);
  const start = inode.start * BLOCK_BYTES;
  if (flat > 0 && !liesWithin({ offset: start, length: flat }, imageBytes)) {
    throw invalid(where, `${what} of ${inode.sizeBytes} bytes at byte ${start} is outside of it`);
  }
  for (let at = 0; at < inode.sizeBytes; at += BLOCK_BYTES) {
    const length = Math.min(BLOCK_BYTES, inode.sizeBytes - at);
    const offset = at < flat ? start + at : inode.end;
    yield* parseBlock(await reader.bytes(offset, length, what), what, where);
  }
}

// Entries first, then their names; where the first name begins says how many entries there are.
function parseBlock(block: Uint8Array, what: string, where: string): Entry[] {
  const view = viewOf(block);
  if (block.length < ENTRY_BYTES) throw invalid(where, `${what} is cut inside an entry`);
  const namesAt = view.getUint16(8, true);
  if (namesAt === 0 || namesAt % ENTRY_BYTES !== 0 || namesAt > block.length) {
    throw invalid(where, `${what} has names at byte ${namesAt} of a block`);
  }
  const entries: Entry[] = [];
  for (let at = 0; at < namesAt; at += ENTRY_BYTES) {
    const from = view.getUint16(at + 8, true);
    const next = at + ENTRY_BYTES;
    const to = next < namesAt ? view.getUint16(next + 8, true) : block.length;
    if (from < namesAt || from >= to || to > block.length) {
      throw invalid(where, `${what} has a name at bytes ${from} to ${to} of a block`);
    }
    const name = nameIn(block.subarray(from, to));
    if (isDots(name)) continue;
    const nid = u64At(view, at, `${what}'s entry`, where);
    entries.push({ nid, type: view.getUint8(at + 10), name });
  }
  return entries;
}

/** The last name of a block may be followed by a NUL. */
function nameIn(bytes: Uint8Array): Uint8Array {
  const end = bytes.indexOf(0);
  return end === -1 ? bytes : bytes.subarray(0, end);
}

function isDots(name: Uint8Array): boolean {
  return name.length <= 2 && name.every((byte) => byte === DOT);
}
