// SPDX-License-Identifier: Apache-2.0
// Which events a daemon has taken and not answered, in memory that outlives it (native/keeper/
// journal.h has the same layout). Nobody else can tell: the kernel gives an event once, and then
// waits for an answer that names the event by the number its fd had in that daemon.
//
// Events are read straight into the page, so there is no moment when one is taken and not in here;
// then each gets a slot, which says what file it is about, and only then the page is cleared.
//
//   bytes 0: u32 magic, u32 version, u32 slots; 4096: the page; 8192: slots of 64 bytes:
//   s32 fd, u32 pending, u64 device, u64 inode, u64 offset, u64 length,
//   u64 when it was taken (machineMs; 0: nobody knows), and 16 bytes that nobody uses

import { DaemonError } from "../../errors.ts";
import { machineMs } from "../../platform/clock.ts";
import type { Native } from "../../platform/native.ts";
import type { Extent } from "../../units.ts";
import { EVENT_BUFFER_BYTES, parseEvents } from "./codec.ts";

const MAGIC = 0x4a465245;
const VERSION = 1;
const PAGE_AT = 4096;
const SLOTS_AT = PAGE_AT + EVENT_BUFFER_BYTES;
const SLOT_BYTES = 64;
/** What waits at a time and one turn's reads fit easily. */
const SLOTS = 8192;

type JournalNative = Pick<Native, "memfdCreate" | "mapShared" | "close">;

/** What a daemon that is gone had taken. */
export interface LeftAccess {
  readonly slot: number;
  /** The number by which the kernel knows it; it is no fd of this process. */
  readonly fd: number;
  /** As fileId gives it; undefined: it was not looked at yet. */
  readonly file: string | undefined;
  readonly extent: Extent;
  /** Since a daemon took it, whichever. */
  readonly waitedMs: number;
}

export class EventJournal {
  /** To be kept (kernel/keeper.ts); ours to close. */
  readonly fd: number;
  /** Events are read into it. */
  readonly page: Uint8Array;
  readonly #view: DataView;
  readonly #free: number[] = [];

  private constructor(fd: number, bytes: Uint8Array) {
    this.fd = fd;
    this.page = bytes.subarray(PAGE_AT, PAGE_AT + EVENT_BUFFER_BYTES);
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let slot = SLOTS - 1; slot >= 0; slot -= 1) {
      if (!this.#isPending(slot)) this.#free.push(slot);
    }
  }

  /** An empty one. Fault: syscall_failed. */
  static create(native: JournalNative): EventJournal {
    const fd = native.memfdCreate("erofsd-journal", SLOTS_AT + SLOTS * SLOT_BYTES);
    try {
      const bytes = native.mapShared(fd);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      view.setUint32(0, MAGIC, true);
      view.setUint32(4, VERSION, true);
      view.setUint32(8, SLOTS, true);
      return new EventJournal(fd, bytes);
    } catch (error) {
      native.close(fd);
      throw error;
    }
  }

  /** That of another daemon; `fd` is the journal's from now on. Fault: fanotify_unsupported when it is of another version. */
  static adopt(native: JournalNative, fd: number): EventJournal {
    const journal = EventJournal.#of(native, fd);
    if (journal !== undefined) return journal;
    const detail = "the daemon before this one has left a journal of another version";
    throw new DaemonError({ code: "fanotify_unsupported", detail });
  }

  /** Undefined when it is of another version. */
  static #of(native: JournalNative, fd: number): EventJournal | undefined {
    const bytes = native.mapShared(fd);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const isOurs =
      bytes.length === SLOTS_AT + SLOTS * SLOT_BYTES &&
      view.getUint32(0, true) === MAGIC &&
      view.getUint32(4, true) === VERSION &&
      view.getUint32(8, true) === SLOTS;
    return isOurs ? new EventJournal(fd, bytes) : undefined;
  }

  /**
   * Occupies the numbers of what is unanswered in the journal `fd`, if there is one, while little else of this process
   * is open; those that are occupied now. The journal stays the caller's; of one of another version
   * nothing is occupied, and adopt says why.
   */
  static occupyLeft(
    native: JournalNative & Pick<Native, "occupyFd">,
    fd: number | undefined,
  ): Set<number> {
    const journal = fd === undefined ? undefined : EventJournal.#of(native, fd);
    const left = journal?.left() ?? [];
    const numbers = new Set(left.map((access) => access.fd));
    return new Set([...numbers].filter((number) => native.occupyFd(number)));
  }

  /** All that is unanswered; what was still in the page has a slot afterwards. */
  left(): LeftAccess[] {
    const left: LeftAccess[] = [];
    for (let slot = 0; slot < SLOTS; slot += 1) {
      if (this.#isPending(slot)) left.push(this.#at(slot));
    }
    const known = new Set(left.map(({ fd }) => fd));
    for (const event of parseEvents(untilZero(this.page))) {
      // One that has a slot and was not cleared yet.
      if (event.kind === "overflow" || event.fd === undefined || known.has(event.fd)) continue;
      // A malformed one: nothing of its file is known, so it is about all of it.
      const extent = event.kind === "access" ? event.extent : { offset: 0, length: 0 };
      const slot = this.record(event.fd, undefined, extent);
      if (slot !== undefined) left.push(this.#at(slot));
    }
    this.page.fill(0);
    return left;
  }

  /** Undefined when it is full, which ACCESSES_MAX of the session does not let happen. */
  record(
    fd: number,
    file: string | undefined,
    extent: Extent,
    takenMs = machineMs(),
  ): number | undefined {
    const slot = this.#free.pop();
    if (slot === undefined) return undefined;
    const at = SLOTS_AT + slot * SLOT_BYTES;
    const [device = "0", inode = "0"] = file?.split(":") ?? [];
    this.#view.setInt32(at, fd, true);
    this.#view.setBigUint64(at + 8, BigInt(device), true);
    this.#view.setBigUint64(at + 16, BigInt(inode), true);
    this.#view.setBigUint64(at + 24, BigInt(extent.offset), true);
    this.#view.setBigUint64(at + 32, BigInt(extent.length), true);
    this.#view.setBigUint64(at + 40, BigInt(takenMs), true);
    // Last: it counts once it is whole.
    this.#view.setUint32(at + 4, 1, true);
    return slot;
  }

  answered(slot: number): void {
    this.#view.setUint32(SLOTS_AT + slot * SLOT_BYTES + 4, 0, true);
    this.#free.push(slot);
  }

  /** Every event of the last read, of `length` bytes, has a slot or its answer. */
  clearPage(length: number): void {
    this.page.fill(0, 0, length);
  }

  #isPending(slot: number): boolean {
    return this.#view.getUint32(SLOTS_AT + slot * SLOT_BYTES + 4, true) === 1;
  }

  #at(slot: number): LeftAccess {
    const at = SLOTS_AT + slot * SLOT_BYTES;
    const [device, inode, offset, length, takenMs] = [8, 16, 24, 32, 40].map((from) =>
      this.#view.getBigUint64(at + from, true),
    );
    const file = inode === 0n ? undefined : `${device}:${inode}`;
    const extent = { offset: Number(offset), length: Number(length) };
    const nowMs = machineMs();
    const waitedMs = nowMs - (Number(takenMs) || nowMs);
    return { slot, fd: this.#view.getInt32(at, true), file, extent, waitedMs };
  }
}

/** The events that are in there, without the zeros behind them. */
function untilZero(page: Uint8Array): Uint8Array {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  let at = 0;
  while (at + 4 <= page.length) {
    const length = view.getUint32(at, true);
    if (length === 0 || length > page.length - at) break;
    at += length;
  }
  return page.subarray(0, at);
}
