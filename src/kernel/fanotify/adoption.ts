// SPDX-License-Identifier: Apache-2.0
// Opening files that a daemon before us has marked, and that are mounted. An fd that is opened on a
// marked file raises events itself: our own writes would wait for our own answers. The fds that the
// kernel puts into events do not (kernel-notes/fanotify-events.md), so we read one byte of the
// file, and keep the fd of the event which that raises. It is open for writing (EVENT_FILE_FLAGS).

import { close, constants, fstat, open, read } from "node:fs";
import { promisify } from "node:util";
import { DaemonError } from "../../errors.ts";
import type { Native } from "../../platform/native.ts";
import type { Access } from "./event-queue.ts";
import { fileId } from "./stored-file.ts";

const openFd = promisify(open);
const closeFd = promisify(close);
const statFd = promisify(fstat);
const readFd = promisify(read);

export interface AdoptedFd {
  readonly fd: number;
  readonly isMounted: boolean;
  /** Never rejects. */
  readonly alone: Promise<void>;
}

export class Adoption {
  readonly #native: Pick<Native, "isOpenElsewhere">;
  /** By file: who waits for an event's fd. */
  readonly #awaited = new Map<string, (access: Access) => void>();

  constructor(native: Pick<Native, "isOpenElsewhere">) {
    this.#native = native;
  }

  /** Whether an access of ours is one that was provoked here; `answer` lets it through and gives its fd. */
  takes(access: Access, answer: (access: Access) => number): boolean {
    const awaited = this.#awaited.get(access.file ?? "");
    if (awaited === undefined) return false;
    this.#awaited.delete(access.file ?? "");
    awaited({ ...access, fd: answer(access) });
    return true;
  }

  /**
   * An fd of the caller's, for reading and writing without events; and whether the file is mounted.
   * Until `alone` resolves we have it open once more, and nobody can tell whether anybody else has.
   * Undefined when what is at `path` is not `file` (fileId), which was left there. Rejects with the system's error.
   */
  async open(path: string, file: string): Promise<AdoptedFd | undefined> {
    const probe = await openFd(path, constants.O_RDWR | constants.O_NOFOLLOW).catch(
      (error: unknown) => {
        if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
        throw error;
      },
    );
    if (probe === undefined) return undefined;
    try {
      const isSame = fileId(await statFd(probe, { bigint: true })) === file;
      const isMounted = isSame && this.#native.isOpenElsewhere(probe);
      if (!isSame) {
        await closeFd(probe);
        return undefined;
      }
      return { ...(await this.#withoutEvents(probe, file)), isMounted };
    } catch (error) {
      await closeFd(probe).catch(() => undefined);
      throw error;
    }
  }

  /** `probe` itself when the file has no mark. */
  async #withoutEvents(probe: number, file: string): Promise<Pick<AdoptedFd, "fd" | "alone">> {
    const taken = new Promise<number>((resolve) => {
      this.#awaited.set(file, ({ fd }) => {
        resolve(fd);
      });
    });
    const reading = readFd(probe, Buffer.alloc(1), 0, 1, 0);
    try {
      const fd = await Promise.race([taken, reading.then(() => probe)]);
      if (fd === probe) return { fd, alone: Promise.resolve() };
      // Not awaited here: it may be let through later than its fd is given.
      const alone = reading.then(
        () => closeFd(probe),
        () => closeFd(probe),
      );
      return { fd, alone: alone.catch(() => undefined) };
    } catch (error) {
      const detail = `a file that is mounted cannot be read: ${error instanceof Error ? error.message : String(error)}`;
      throw new DaemonError({ code: "fanotify_unsupported", detail }, { cause: error });
    } finally {
      this.#awaited.delete(file);
    }
  }
}
