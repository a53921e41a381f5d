// SPDX-License-Identifier: Apache-2.0
// The door for kernels that cannot ask: cache files that are filled and verified before anybody may
// mount them. They are those of the fanotify door, in the same directory, and nobody is asked about
// a read: nothing of a mounted file is missing.

import { type DaemonError, invariant } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import type { Extent } from "../../units.ts";
import { fillAll } from "../fanotify/ask-to-read.ts";
import type { FileDoor } from "../fanotify/file-door.ts";
import type { FileObject } from "../fanotify/file-object.ts";
import type { KeyName } from "../fanotify/names.ts";
import type { OpenedFile } from "../fanotify/open-entry.ts";
import { OpenFiles } from "../fanotify/open-files.ts";
import type { CacheRoom, RoomLimits } from "../fanotify/room.ts";
import type { KernelDoor, KernelHandler } from "../transport.ts";

export interface FullParts {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** From lockFiles; the session owns it from now on. */
  readonly lockFd: number;
  readonly cacheDir: string;
  readonly limits: RoomLimits;
  /** How long what is fetched waits for a disk that is full. */
  readonly readTimeoutMs: number;
}

export class FullSession implements KernelDoor, FileDoor {
  readonly #parts: FullParts;
  readonly #files: OpenFiles;
  #handler: KernelHandler | undefined;
  #isStopped = false;
  /** `read` counts nothing: the kernel asks for no part of a file. */
  readonly messages = { open: 0, read: 0, readBytes: 0, close: 0, malformed: 0 };
  readonly writes = { writes: 0, writtenBytes: 0 };

  constructor(parts: FullParts) {
    this.#parts = parts;
    const { messages, writes } = this;
    const onCount = (): void => undefined;
    this.#files = new OpenFiles({ ...parts, groupFd: undefined, messages, writes, onCount });
  }

  start(handler: KernelHandler): void {
    this.#handler = handler;
    this.#files.start(handler);
  }

  /** What is kept on disk, open or not. */
  get room(): Pick<CacheRoom, "list" | "drop"> {
    return this.#files.room;
  }

  get objectCount(): number {
    return this.#files.count;
  }

  areAllKnown(): Promise<boolean> {
    return Promise.resolve(true);
  }

  /** What is mounted is whole. */
  isNeeded(): Promise<boolean> {
    return Promise.resolve(false);
  }

  /** Nothing comes that could wait. */
  pause(): void {}

  handOver(error: DaemonError): Promise<void> {
    return this.stop(error);
  }

  /** Nothing of the kernel's can be gone: it is asked nothing. */
  probe(): void {}

  open(key: KeyName): Promise<OpenedFile> {
    return this.#files.open(key);
  }

  fill(object: FileObject, extent: Extent): Promise<void> {
    invariant(this.#handler !== undefined, "the door is not started");
    return fillAll({ handler: this.#handler, log: this.#parts.log }, object, extent);
  }

  covers(object: FileObject, extent: Extent): boolean {
    return this.#files.covers(object, extent);
  }

  async readBack(object: FileObject, extent: Extent): Promise<Uint8Array> {
    const file = await object.opening;
    return file.read(extent);
  }

  distrust(object: FileObject): Promise<void> {
    return this.#files.distrust(object);
  }

  /** What is mounted goes on: it needs us no more. */
  async stop(error: DaemonError): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    await this.#files.stop(error);
    this.#parts.native.close(this.#parts.lockFd);
  }
}
