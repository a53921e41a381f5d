// SPDX-License-Identifier: Apache-2.0
// The fanotify door: cache files that the kernel mounts, marked until they are complete, and
// whoever reads a part of one waits until it is there.
//
//   open(key) -> OPEN to the handler -> cache file, marked, with a link to mount it by
//   group readable -> parseEvents -> READ to the handler -> FAN_ALLOW | FAN_DENY with EIO
//
// The kernel asks for nothing at mount, so whoever mounts asks here first (file-mounts.ts). Nor
// does it say when it has done with a file: that is asked now and then.
// Reading events, their files' numbers and responses are microsecond calls on the event loop. It
// opens and reads no marked file itself: it would wait for its own answer.

import { fstatSync } from "node:fs";
import { DaemonError, asDaemonError, invariant } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { FdWatcher, Native } from "../../platform/native.ts";
import { BLOCK_BYTES, type Extent, alignDown, alignUp, extentEnd } from "../../units.ts";
import type { KernelDoor, KernelHandler } from "../transport.ts";
import { type AccessEvent, EVENT_BUFFER_BYTES, encodeResponse, parseEvents } from "./codec.ts";
import type { FileObject } from "./file-object.ts";
import type { FileDoor } from "./file-door.ts";
import type { KeyName } from "./names.ts";
import { OpenFiles, type OpenedFile } from "./open-files.ts";
import type { CacheRoom, RoomLimits } from "./room.ts";
import { type Asking, type ReadAnswers, askToRead, fillAll } from "./ask-to-read.ts";
import { fileId } from "./stored-file.ts";

/** Reads of the group per readiness, so that answers and network data get their turn in between. */
const READS_PER_TURN_MAX = 4;
/** Each waiting access holds an fd of ours; further ones wait in the kernel. */
const ACCESSES_MAX = 2048;

export interface FanotifyParts {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** From openGroup; the session owns both from now on. */
  readonly groupFd: number;
  readonly lockFd: number;
  readonly cacheDir: string;
  readonly limits: RoomLimits;
  /** Ours: what we read ourselves never waits. */
  readonly pid: number;
}

export class FanotifySession implements KernelDoor, FileDoor {
  readonly #parts: FanotifyParts;
  readonly #files: OpenFiles;
  readonly #buffer = new Uint8Array(EVENT_BUFFER_BYTES);
  #watcher: FdWatcher | undefined;
  #handler: KernelHandler | undefined;
  #onFatal: ((error: DaemonError) => void) | undefined;
  #waiting = 0;
  #stopped = false;
  /** Events taken, by kind, and the bytes that accesses were about; of accesses also cached ones. */
  readonly messages = { open: 0, read: 0, readBytes: 0, close: 0, malformed: 0 };
  readonly writes = { writes: 0, writtenBytes: 0 };

  constructor(parts: FanotifyParts) {
    this.#parts = parts;
    const { messages, writes } = this;
    this.#files = new OpenFiles({ ...parts, messages, writes });
  }

  start(handler: KernelHandler, onFatal: (error: DaemonError) => void): void {
    this.#handler = handler;
    this.#onFatal = onFatal;
    this.#files.start(handler);
    this.#watch();
  }

  /** What is kept on disk, open or not. */
  get room(): Pick<CacheRoom, "list" | "drop"> {
    return this.#files.room;
  }

  get objectCount(): number {
    return this.#files.count;
  }

  /** Takes what is readable, though nobody said that it is; ends the session as a failed read does. */
  probe(): void {
    if (this.#watcher === undefined) return;
    this.#drain((event) => {
      this.#access(event);
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

  async stop(error: DaemonError): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#unwatch();
    const left = await this.#files.stop(error);
    // What waits unread is let through when the group goes: refused instead.
    this.#drain((event) => {
      this.#answer(event.fd, "deny");
    });
    if (left.length > 0) {
      this.#parts.log.error(
        { keys: left },
        "mounted images are not complete: unmount them, what is missing of them reads as zeros now",
      );
    }
    this.#parts.native.close(this.#parts.groupFd);
    this.#parts.native.close(this.#parts.lockFd);
  }

  #watch(): void {
    this.#watcher = this.#parts.native.watch(this.#parts.groupFd, () => {
      this.#drain((event) => {
        this.#access(event);
      });
    });
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #drain(deliver: (event: AccessEvent) => void): void {
    const { native, groupFd, log } = this.#parts;
    // At the end everything is taken.
    for (let left = this.#stopped ? 1024 : READS_PER_TURN_MAX; left > 0; left -= 1) {
      let length: number;
      try {
        length = native.readEvents(groupFd, this.#buffer);
      } catch (error) {
        if (!isLostEvent(error)) {
          this.#fatal(error);
          return;
        }
        log.error({ err: error }, "the kernel could not give us an event, and has refused it");
        continue;
      }
      if (length === 0) return;
      for (const event of parseEvents(this.#buffer.subarray(0, length))) {
        if (event.kind === "access") {
          deliver(event);
        } else if (event.kind === "overflow") {
          this.messages.malformed += 1;
          // Cannot be: our queue has no limit. Whoever was let through may have read zeros.
          this.#fatal(new DaemonError({ code: "kernel_message_invalid", detail: "events lost" }));
        } else {
          this.messages.malformed += 1;
          log.error({}, `a fanotify event cannot be served: ${event.reason}`);
          if (event.fd !== undefined) this.#answer(event.fd, "deny");
        }
      }
    }
  }

  #access({ fd, pid, extent }: AccessEvent): void {
    this.messages.read += 1;
    this.messages.readBytes += extent.length;
    const object = this.#objectOf(fd);
    const part = object === undefined ? extent : withinFile(object, extent);
    if (part.length === 0) {
      this.#answer(fd, "allow");
      return;
    }
    if (object === undefined) {
      this.#parts.log.warn({ pid }, "an access to a cache file that is not open: refused");
      this.#answer(fd, "deny");
      return;
    }
    if (pid === this.#parts.pid) {
      // Ourselves, through a mount of our own: never waits, and never sees a hole.
      this.#answer(fd, this.#files.covers(object, part) ? "allow" : "deny");
      return;
    }
    this.#waiting += 1;
    const answer = (how: "allow" | "deny"): void => {
      this.#waiting -= 1;
      this.#answer(fd, how);
      if (!this.#stopped && this.#watcher === undefined && this.#waiting < ACCESSES_MAX / 2) {
        this.#watch();
      }
    };
    this.#read(object, part, {
      label: `access to "${object.cookieKey}"`,
      allow: () => {
        answer("allow");
      },
      refuse: () => {
        answer("deny");
      },
    });
    if (this.#waiting >= ACCESSES_MAX) this.#unwatch();
  }

  #objectOf(fd: number): FileObject | undefined {
    try {
      return this.#files.byId(fileId(fstatSync(fd, { bigint: true })));
    } catch (error) {
      this.#parts.log.error({ err: error }, "an event's file cannot be looked at");
      return undefined;
    }
  }

  get #asking(): Asking {
    invariant(this.#handler !== undefined, "the door is not started");
    return { handler: this.#handler, log: this.#parts.log };
  }

  #read(object: FileObject, extent: Extent, by: ReadAnswers): void {
    askToRead(this.#asking, object, { extent, by });
  }

  // The response names the fd, so it comes first: a number that is free may be given again.
  #answer(fd: number, how: "allow" | "deny"): void {
    const { native, groupFd, log } = this.#parts;
    try {
      native.write(groupFd, encodeResponse(fd, how));
    } catch (error) {
      // ENOENT: the reader was killed meanwhile.
      if (errnoOf(error) !== "ENOENT") log.error({ err: error }, "an access cannot be answered");
    }
    native.close(fd);
  }

  #fatal(error: unknown): void {
    this.#unwatch();
    this.#onFatal?.(asDaemonError(error));
  }
}

/** Whole blocks; nothing for what lies behind the file's end. */
function withinFile({ sizeBytes }: FileObject, extent: Extent): Extent {
  const end = Math.min(alignUp(extentEnd(extent), BLOCK_BYTES), alignUp(sizeBytes, BLOCK_BYTES));
  const offset = Math.min(alignDown(extent.offset, BLOCK_BYTES), end);
  return { offset, length: extent.length === 0 ? 0 : end - offset };
}

// A read() that fails so has taken an event off the queue and refused it; all else goes on.
const LOST_EVENT: readonly string[] = ["EMFILE", "ENFILE", "ENOMEM", "ENXIO", "EACCES", "EPERM"];

function isLostEvent(error: unknown): boolean {
  const name = errnoOf(error);
  return name !== undefined && LOST_EVENT.includes(name);
}

function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof DaemonError) || error.fault.code !== "syscall_failed") return undefined;
  return error.fault.errnoName;
}
