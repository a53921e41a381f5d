// SPDX-License-Identifier: Apache-2.0
// Files that a daemon before us left open, until they are served again or nobody has them mounted
// any more. Their marks stay for so long, so that nobody reads their holes.

import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import { type LeftFile, forgetLeft } from "./left-files.ts";
import type { Marks } from "./marks.ts";

export interface OrphanFilesParts {
  readonly native: Pick<Native, "close">;
  readonly log: Log;
  readonly marks: Marks;
  readonly isMounted: (fd: number) => boolean;
}

export class OrphanFiles {
  readonly #parts: OrphanFilesParts;
  /** By an fd that is ours. */
  readonly #files = new Map<number, LeftFile>();

  constructor(parts: OrphanFilesParts) {
    this.#parts = parts;
  }

  get count(): number {
    return this.#files.size;
  }

  add(fd: number, left: LeftFile): void {
    this.#files.set(fd, left);
  }

  /** It is served from now on, and the fd the caller's; false when it was not here. */
  take(fd: number): boolean {
    return this.#files.delete(fd);
  }

  /** Lets go of what nobody has mounted; true when there was such a file. */
  async look(): Promise<boolean> {
    const idle = [...this.#files].filter(([fd]) => !this.#parts.isMounted(fd));
    for (const [fd] of idle) {
      this.#files.delete(fd);
      this.#parts.marks.remove(fd);
      this.#parts.native.close(fd);
    }
    try {
      for (const [, left] of idle) await forgetLeft(left);
    } catch (error) {
      this.#parts.log.error(
        { err: error },
        "the link of a file that nobody uses cannot be removed",
      );
    }
    return idle.length > 0;
  }

  /** Closes our fds; marks and links stay. What was still mounted. */
  close(): LeftFile[] {
    const left = [...this.#files.values()];
    for (const fd of this.#files.keys()) this.#parts.native.close(fd);
    this.#files.clear();
    return left;
  }
}

/** Somebody else has it open: the kernel, that has it mounted. True where it cannot be seen. */
export function isOpenElsewhere(
  { native, log }: { readonly native: Pick<Native, "isOpenElsewhere">; readonly log: Log },
  fd: number,
): boolean {
  try {
    return native.isOpenElsewhere(fd);
  } catch (error) {
    log.error({ err: error }, "it cannot be seen whether a cache file is in use");
    return true;
  }
}
