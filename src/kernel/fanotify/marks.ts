// SPDX-License-Identifier: Apache-2.0
// The marks of one group: accesses to a marked file wait for our answer. Without a group there
// are none.

import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import { MARK_ADD, MARK_REMOVE, PRE_ACCESS } from "./codec.ts";
import { errnoNameOf } from "../../platform/errno-name.ts";

export class Marks {
  readonly #native: Pick<Native, "fanotifyMark">;
  readonly #groupFd: number | undefined;
  readonly #log: Log;

  constructor(parts: {
    native: Pick<Native, "fanotifyMark">;
    groupFd: number | undefined;
    log: Log;
  }) {
    this.#native = parts.native;
    this.#groupFd = parts.groupFd;
    this.#log = parts.log;
  }

  /** On the file that `fd` has open; again is no fault. Fault: syscall_failed. */
  add(fd: number): void {
    if (this.#groupFd === undefined) return;
    this.#native.fanotifyMark(this.#groupFd, { flags: MARK_ADD, mask: PRE_ACCESS, fd });
  }

  /** A failure is told: the file is asked about in vain. */
  remove(fd: number): void {
    if (this.#groupFd === undefined) return;
    try {
      this.#native.fanotifyMark(this.#groupFd, { flags: MARK_REMOVE, mask: PRE_ACCESS, fd });
    } catch (error) {
      // ENOENT: it has none.
      if (errnoNameOf(error) === "ENOENT") return;
      this.#log.error({ err: error }, "a mark cannot be removed");
    }
  }
}
