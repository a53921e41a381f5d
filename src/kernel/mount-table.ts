// SPDX-License-Identifier: Apache-2.0
// This mount namespace's mounts, read again only when the kernel says that they have changed:
// poll(2) on /proc/self/mountinfo has POLLPRI once after each change (proc(5)), for each open file
// of it. So whoever asks costs one system call, and gets what is there at that moment.

import { constants } from "node:fs";
import type { Clock } from "../platform/clock.ts";
import type { FdWatcher, Native } from "../platform/native.ts";
import { type MountEntry, listMounts } from "./mountinfo.ts";

const PATH = "/proc/self/mountinfo";
/** A directory above a mount point that is renamed changes its path, and raises nothing. */
const KEPT_MS = 1000;

export interface MountTableParts {
  readonly native: Pick<Native, "open" | "close" | "hasPriority" | "watchPriority">;
  readonly clock: Clock;
}

export class MountTable {
  readonly #parts: MountTableParts;
  readonly #askedFd: number;
  readonly #watchedFd: number;
  #watcher: FdWatcher | undefined;
  #isClosed = false;
  #kept: { readonly entries: Promise<readonly MountEntry[]>; readonly sinceMs: number } | undefined;

  /** Fault: syscall_failed. */
  constructor(parts: MountTableParts) {
    this.#parts = parts;
    this.#askedFd = parts.native.open(PATH, constants.O_RDONLY);
    this.#watchedFd = parts.native.open(PATH, constants.O_RDONLY);
  }

  /** In the kernel's order; the same array for as long as there was no change. */
  readonly entries = (): Promise<readonly MountEntry[]> => {
    const { native, clock } = this.#parts;
    if (this.#isClosed) return listMounts();
    // Asked before it is read: a change meanwhile is then told by the next question.
    const isChanged = native.hasPriority(this.#askedFd);
    const nowMs = clock.nowMs();
    const kept = this.#kept;
    if (kept !== undefined && !isChanged && nowMs - kept.sinceMs < KEPT_MS) return kept.entries;
    const entries = listMounts();
    this.#kept = { entries, sinceMs: nowMs };
    entries.catch(() => {
      if (this.#kept?.entries === entries) this.#kept = undefined;
    });
    return entries;
  };

  /** Calls `onChange` after every change, once for some that are close together. */
  watch(onChange: () => void): void {
    this.#watcher = this.#parts.native.watchPriority(this.#watchedFd, onChange);
  }

  /** Idempotent. Whoever asks later reads the list anew. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#watcher?.close();
    for (const fd of [this.#askedFd, this.#watchedFd]) this.#parts.native.close(fd);
  }
}
