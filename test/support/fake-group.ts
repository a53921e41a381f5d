// SPDX-License-Identifier: Apache-2.0
// The kernel's side of a fanotify group, scripted: events to read, marks and answers recorded. Files
// and writes into them are real. Closing one of the group's fds twice throws.

import { fstatSync } from "node:fs";
import type { Native } from "../../src/platform/native.ts";
import { errnoError } from "./scripted-native.ts";

export const GROUP_FD = 1_000_000;
export const LOCK_FD = 1_000_001;

export class FakeGroup {
  readonly events: (Uint8Array | Error)[] = [];
  readonly answers: string[] = [];
  readonly closed: number[] = [];
  readonly marked = new Set<bigint>();
  readonly mounted = new Set<bigint>();
  refusal: string | undefined;
  onMark: () => void = () => undefined;
  /** A write into a file begins when it has resolved. */
  beforeWrite: () => Promise<void> = () => Promise.resolve();
  readonly #real: Native;
  #onReady: (() => void) | undefined;

  constructor(real: Native) {
    this.#real = real;
  }

  get native(): Native {
    const inode = (fd: number): bigint => fstatSync(fd, { bigint: true }).ino;
    return {
      ...this.#real,
      fanotifyMark: (_, { flags, fd }) => {
        this.onMark();
        if (flags === 1) this.marked.add(inode(fd));
        else this.marked.delete(inode(fd));
      },
      pwriteAligned: async (...of) => {
        await this.beforeWrite();
        await this.#real.pwriteAligned(...of);
      },
      readEvents: (_, buffer) => {
        const next = this.events.shift();
        if (next instanceof Error) throw next;
        buffer.set(next ?? []);
        return next?.length ?? 0;
      },
      isOpenElsewhere: (fd) => this.mounted.has(inode(fd)),
      write: (_, response) => {
        this.answers.push(Buffer.from(response).toString("hex"));
        if (this.refusal !== undefined) throw errnoError("write", this.refusal);
        return response.length;
      },
      close: (fd) => {
        if (this.closed.includes(fd)) throw new Error(`fd ${fd} is closed twice`);
        if (fd < GROUP_FD) this.#real.close(fd);
        // A number of a file that is free may come again.
        else this.closed.push(fd);
      },
      watch: (_, onReady) => {
        this.#onReady = () => {
          onReady(1);
        };
        return {
          close: () => {
            this.#onReady = undefined;
          },
        };
      },
    };
  }

  get isWatched(): boolean {
    return this.#onReady !== undefined;
  }

  deliver(...events: (Uint8Array | Error)[]): void {
    this.events.push(...events);
    this.#onReady?.();
  }
}
