// SPDX-License-Identifier: Apache-2.0
// The fanotify door: cache files that the kernel mounts, marked until they are complete, and
// whoever reads a part of one waits until it is there.
//
//   open(key) -> OPEN to the handler -> cache file, marked, with a link to mount it by
//   group readable -> parseEvents -> READ to the handler -> FAN_ALLOW | FAN_DENY with EIO
//
// The kernel asks for nothing at mount, so whoever mounts asks here first (file-mounts.ts). Nor
// does it say when it has done with a file: that is asked now and then.
//
// A daemon that follows another one (the keeper holds group and journal) takes up what that one left
// open and unanswered. Accesses to files that it has not opened yet wait until it has.

import { DaemonError, asDaemonError, invariant } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { FdWatcher, Native } from "../../platform/native.ts";
import { BLOCK_BYTES, type Extent, alignDown, alignUp, extentEnd } from "../../units.ts";
import type { KernelDoor, KernelHandler } from "../transport.ts";
import { Adoption } from "./adoption.ts";
import { type Access, EventQueue } from "./event-queue.ts";
import { type Asking, type ReadAnswers, askToRead, fillAll } from "./ask-to-read.ts";
import type { FileDoor } from "./file-door.ts";
import type { FileObject } from "./file-object.ts";
import { HeldAccesses } from "./held-accesses.ts";
import type { EventJournal } from "./journal.ts";
import type { LeftFile } from "./left-files.ts";
import type { KeyName } from "./names.ts";
import type { OpenedFile } from "./open-entry.ts";
import { OpenFiles } from "./open-files.ts";
import type { CacheRoom, RoomLimits } from "./room.ts";

/** Reads of the group per readiness, so that answers and network data get their turn in between. */
const READS_PER_TURN_MAX = 4;
/** Each waiting access holds an fd of ours; further ones wait in the kernel. */
const ACCESSES_MAX = 2048;
/** Daemons may die one after the other, of an access perhaps: after so many deadlines it is refused. */
const DEADLINES_MAX = 2;

export interface FanotifyParts {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** From openGroup or adoptGroup; the session owns all three from now on. */
  readonly groupFd: number;
  readonly lockFd: number;
  readonly journal: EventJournal;
  readonly cacheDir: string;
  readonly limits: RoomLimits;
  readonly readTimeoutMs: number;
  /** Ours: what we read ourselves never waits. */
  readonly pid: number;
  /** What a daemon before us had open. */
  readonly left?: readonly LeftFile[];
  /** Numbers of accesses it had taken that are occupied already. */
  readonly occupied?: ReadonlySet<number> | undefined;
  /** Told how many files are open, whenever that changes, and once the ones left are open. */
  readonly onObjects?: (count: number) => void;
}

export class FanotifySession implements KernelDoor, FileDoor {
  readonly #parts: FanotifyParts;
  readonly #files: OpenFiles;
  readonly #queue: EventQueue;
  readonly #adoption: Adoption;
  #watcher: FdWatcher | undefined;
  #handler: KernelHandler | undefined;
  #onFatal: ((error: DaemonError) => void) | undefined;
  readonly #held: HeldAccesses;
  /** Each file that was left was tried. */
  #hasAdopted = false;
  /** Accesses that are not answered. */
  #waiting = 0;
  #paused = false;
  #stopped = false;
  /** Events taken, by kind, and the bytes that accesses were about; of accesses also cached ones. */
  readonly messages = { open: 0, read: 0, readBytes: 0, close: 0, malformed: 0 };
  readonly writes = { writes: 0, writtenBytes: 0 };

  constructor(parts: FanotifyParts) {
    this.#parts = parts;
    const { messages, writes } = this;
    const onCount = (count: number): void => {
      // Until all that was left is open, the count would seem to fall.
      if (this.#hasAdopted) parts.onObjects?.(count);
    };
    const onTakenUp = this.#takenUp.bind(this);
    this.#files = new OpenFiles({ ...parts, messages, writes, onCount, onTakenUp });
    this.#held = new HeldAccesses({ ...parts, onLate: this.#late.bind(this) });
    this.#queue = new EventQueue({ ...parts, messages });
    this.#adoption = new Adoption(parts.native);
  }

  start(handler: KernelHandler, onFatal: (error: DaemonError) => void): void {
    this.#handler = handler;
    this.#onFatal = onFatal;
    this.#files.start(handler);
    const unanswered = this.#queue.takeLeft(this.#parts.occupied ?? new Set());
    this.#watch();
    void this.#files.adopt(this.#parts.left ?? [], this.#adoption).then(() => {
      this.#hasAdopted = true;
      this.#parts.onObjects?.(this.#files.count);
    });
    for (const access of unanswered) this.#takeUp(access);
  }

  /** What is kept on disk, open or not. */
  get room(): Pick<CacheRoom, "list" | "drop"> {
    return this.#files.room;
  }

  get objectCount(): number {
    return this.#files.count;
  }

  areAllKnown(): Promise<boolean> {
    return Promise.resolve(this.#hasAdopted && this.#files.unservedCount === 0);
  }

  isNeeded(): Promise<boolean> {
    return Promise.resolve(this.#files.isAnyMarkedMounted);
  }

  /** Takes what is readable, though nobody said that it is; ends the session as a failed read does. */
  probe(): void {
    if (this.#watcher === undefined) return;
    this.#take(READS_PER_TURN_MAX, (access) => {
      this.#access(access);
    });
  }

  /**
   * Opens the cache file of a key and marks it. Each opening is to be released, and the file is
   * closed some time after all are and nobody has it mounted. Faults: what the handler refuses
   * with, cache_write_failed, cache_no_space, stopping.
   */
  open(key: KeyName): Promise<OpenedFile> {
    return this.#files.open(key);
  }

  /** Resolves when all of `extent` (within the object) is in its file. Rejects as a read would fail. */
  fill(object: FileObject, extent: Extent): Promise<void> {
    return fillAll(this.#asking, object, extent);
  }

  /** True when all of `extent` is in the file. */
  covers(object: FileObject, extent: Extent): boolean {
    return this.#files.covers(object, extent);
  }

  /** What the file holds of `extent`; bytes that were not filled are zeros. */
  async readBack(object: FileObject, extent: Extent): Promise<Uint8Array> {
    const file = await object.opening;
    return file.read(extent);
  }

  distrust(object: FileObject): Promise<void> {
    return this.#files.distrust(object);
  }

  pause(): void {
    this.#paused = true;
    this.#unwatch();
  }

  async handOver(error: DaemonError): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#unwatch();
    this.#held.take();
    this.#queue.handOver();
    await this.#files.handOver(error);
    this.#closeFds();
  }

  async stop(error: DaemonError): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#unwatch();
    for (const access of this.#held.take()) this.#answer(access, "deny");
    const left = await this.#files.stop(error);
    // What waits unread is let through when the group goes: refused instead.
    this.#take(1024, (access) => {
      this.#queue.answer(access, "deny");
    });
    if (left.length > 0) {
      this.#parts.log.error(
        { keys: left },
        "mounted images are not complete: unmount them, what is missing of them reads as zeros now",
      );
    }
    this.#closeFds();
  }

  #closeFds(): void {
    const { native, groupFd, lockFd, journal } = this.#parts;
    for (const fd of [groupFd, lockFd, journal.fd]) native.close(fd);
  }

  #watch(): void {
    this.#watcher = this.#parts.native.watch(this.#parts.groupFd, () => {
      this.#take(READS_PER_TURN_MAX, (access) => {
        this.#access(access);
      });
    });
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #take(readsMax: number, deliver: (access: Access) => void): void {
    try {
      for (let left = readsMax; left > 0; left -= 1) {
        if (!this.#queue.take(deliver)) return;
      }
    } catch (error) {
      this.#unwatch();
      this.#onFatal?.(asDaemonError(error));
    }
  }

  #takeUp(access: Access): void {
    const { readTimeoutMs, log } = this.#parts;
    const { waitedMs, extent } = access;
    if (waitedMs < DEADLINES_MAX * readTimeoutMs) {
      this.#access(access);
      return;
    }
    log.warn({ waitedMs, ...extent }, "an access that no daemon has lived to answer: refused");
    this.#queue.answer(access, "deny");
  }

  #access(access: Access): void {
    const { file, pid, extent } = access;
    const isOurOwn = pid === this.#parts.pid;
    const taken = isOurOwn && this.#adoption.takes(access, (it) => this.#queue.answerKeepingFd(it));
    if (taken) return;
    const object = file === undefined ? undefined : this.#files.byId(file);
    if (object === undefined && !isOurOwn && this.#isAwaited(access)) {
      if (this.#begin(access)) this.#held.add(access);
      return;
    }
    this.messages.read += 1;
    this.messages.readBytes += extent.length;
    if (object !== undefined) {
      this.#serve(access, object, withinFile(object, extent));
    } else if (pid === undefined && file === undefined) {
      this.#serveAnyFile(access);
    } else {
      this.#parts.log.warn({ pid }, "an access to a cache file that is not open: refused");
      this.#queue.answer(access, "deny");
    }
  }

  #serve(access: Access, object: FileObject, part: Extent): void {
    if (part.length === 0) {
      this.#queue.answer(access, "allow");
      return;
    }
    if (access.pid === this.#parts.pid) {
      // Ourselves, through a mount of our own: never waits, and never sees a hole.
      this.#queue.answer(access, this.#files.covers(object, part) ? "allow" : "deny");
      return;
    }
    if (!this.#begin(access)) return;
    this.#read(object, part, {
      label: `access to "${object.cookieKey}"`,
      isOwn: false,
      allow: () => {
        this.#answer(access, "allow");
      },
      refuse: () => {
        this.#answer(access, "deny");
      },
    });
  }

  /** It waits for #answer from now on, in the journal too; false: it was refused. */
  #begin(access: Access): boolean {
    if (access.slot === undefined && !this.#queue.keep(access)) return false;
    this.#waiting += 1;
    if (this.#waiting >= ACCESSES_MAX) this.#unwatch();
    return true;
  }

  #answer(access: Access, how: "allow" | "deny"): void {
    this.#waiting -= 1;
    this.#queue.answer(access, how);
    const isFew = this.#waiting < ACCESSES_MAX / 2;
    if (this.#watcher === undefined && isFew && !this.#stopped && !this.#paused) this.#watch();
  }

  /** Its file was left mounted, or may be one that was, and is not served yet. */
  #isAwaited({ file }: Access): boolean {
    if (file === undefined) return this.#files.unservedCount > 0;
    return this.#files.isUnserved(file);
  }

  #takenUp(of: string): void {
    if (this.#stopped) return;
    const isLast = this.#files.unservedCount === 0;
    for (const access of this.#held.take(({ file }) => file === of || (isLast && !file))) {
      this.#waiting -= 1;
      this.#access(access);
    }
  }

  #late(access: Access): void {
    this.#parts.log.warn({ pid: access.pid }, "an access to a mount that is not served: refused");
    this.#answer(access, "deny");
  }

  // The daemon before us died between taking the event and looking whose it is. Whichever file it
  // is, the bytes it waits for are there when they are in every file.
  #serveAnyFile(access: Access): void {
    const { extent } = access;
    const fills = this.#files.objects().map(async (object) => {
      const whole = { offset: 0, length: object.sizeBytes };
      const part = withinFile(object, extent.length === 0 ? whole : extent);
      if (part.length > 0) await this.fill(object, part);
    });
    Promise.all(fills).then(
      () => {
        this.#queue.answer(access, "allow");
      },
      (error: unknown) => {
        this.#parts.log.warn({ err: error }, "an access that a daemon before us took: refused");
        this.#queue.answer(access, "deny");
      },
    );
  }

  get #asking(): Asking {
    invariant(this.#handler !== undefined, "the door is not started");
    return { handler: this.#handler, log: this.#parts.log };
  }

  #read(object: FileObject, extent: Extent, by: ReadAnswers): void {
    askToRead(this.#asking, object, { extent, by });
  }
}

/** Whole blocks; nothing for what lies behind the file's end. */
function withinFile({ sizeBytes }: FileObject, extent: Extent): Extent {
  const end = Math.min(alignUp(extentEnd(extent), BLOCK_BYTES), alignUp(sizeBytes, BLOCK_BYTES));
  const offset = Math.min(alignDown(extent.offset, BLOCK_BYTES), end);
  return { offset, length: extent.length === 0 ? 0 : end - offset };
}
