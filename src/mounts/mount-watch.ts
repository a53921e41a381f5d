// SPDX-License-Identifier: Apache-2.0
// Tells of our mounts that come and go, whoever mounts and unmounts: the kernel says that its list
// has changed, and the difference to the last one is told. What is there within less than LOOK_MS
// may be told of late, or, if it is gone again, not at all.

import { DaemonError, asDaemonError } from "../errors.ts";
import type { MountTable } from "../kernel/mount-table.ts";
import { type Clock, sleep } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import type { OurMount } from "./mount-list.ts";

/** Between two looks, on machines that mount all the time. */
const LOOK_MS = 50;

export interface MountWatchParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly table: Pick<MountTable, "watch" | "close">;
  readonly list: () => Promise<readonly OurMount[]>;
  readonly tell: (what: "mounted" | "unmounted", mount: OurMount) => void;
}

export class MountWatch {
  readonly #parts: MountWatchParts;
  readonly #stopping = new AbortController();
  #known: ReadonlyMap<string, OurMount> = new Map();
  #isBehind = false;
  #looking: Promise<void> | undefined;

  constructor(parts: MountWatchParts) {
    this.#parts = parts;
  }

  /** What is mounted already is not told. Fault: syscall_failed. */
  start(): void {
    this.#parts.table.watch(() => {
      this.#isBehind = true;
      this.#looking ??= this.#look();
    });
    this.#looking = this.#look(true);
  }

  /** Closes the table, too. */
  async stop(): Promise<void> {
    this.#stopping.abort(new DaemonError({ code: "stopping" }));
    await this.#looking;
    this.#parts.table.close();
  }

  // Never rejects.
  async #look(isFirst = false): Promise<void> {
    const { clock, log, list, tell } = this.#parts;
    try {
      if (isFirst) this.#known = byKey(await list());
      while (this.#isBehind && !this.#stopping.signal.aborted) {
        this.#isBehind = false;
        const now = byKey(await list());
        for (const [key, mount] of this.#known) if (!now.has(key)) tell("unmounted", mount);
        for (const [key, mount] of now) if (!this.#known.has(key)) tell("mounted", mount);
        this.#known = now;
        await sleep(clock, LOOK_MS, this.#stopping.signal);
      }
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      log.warn({}, `mounts are not told of: ${asDaemonError(error).message}`);
    } finally {
      this.#looking = undefined;
    }
  }
}

/** By what the kernel says of each; mounts of one image at one place are counted. */
function byKey(mounts: readonly OurMount[]): Map<string, OurMount> {
  const found = new Map<string, OurMount>();
  for (const mount of mounts) {
    const { mountPoint, root, door, fsid = "", domainId = "" } = mount;
    const key = [mountPoint, root, door, fsid, domainId].join("\0");
    let count = 0;
    while (found.has(`${key}\0${count}`)) count += 1;
    found.set(`${key}\0${count}`, mount);
  }
  return found;
}
