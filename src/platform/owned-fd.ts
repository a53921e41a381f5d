// SPDX-License-Identifier: Apache-2.0
// One owner for one file descriptor: open -> moved | closing -> closed. Whoever works with the
// number borrows it, and it is closed only when the last borrower is done: a reused number would
// put bytes into a stranger's file.

import { DaemonError, invariant } from "../errors.ts";

export interface FdCloser {
  close(fd: number): void;
}

export class OwnedFd {
  readonly #fd: number;
  readonly #closer: FdCloser;
  #state: "open" | "moved" | "closing" | "closed" = "open";
  #borrowers = 0;
  #closing: Promise<void> | undefined;
  #whenUnused: (() => void) | undefined;

  constructor(fd: number, closer: FdCloser) {
    this.#fd = fd;
    this.#closer = closer;
  }

  /** The number, for a call that is over before anything else can run. */
  get number(): number {
    invariant(this.#state === "open", `fd ${this.#fd} is ${this.#state}`);
    return this.#fd;
  }

  /** Lends the number to `use`; it stays open until that has settled. Rejects once closed. */
  async borrow<T>(use: (fd: number) => Promise<T>): Promise<T> {
    if (this.#state !== "open") throw new DaemonError({ code: "cancelled", what: "a closed fd" });
    this.#borrowers += 1;
    try {
      return await use(this.#fd);
    } finally {
      this.#borrowers -= 1;
      if (this.#borrowers === 0) this.#whenUnused?.();
    }
  }

  // open -> moved: the caller owns the number now.
  take(): number {
    const fd = this.number;
    invariant(this.#borrowers === 0, `fd ${fd} is in use`);
    this.#state = "moved";
    return fd;
  }

  /** Closes as soon as nobody uses it; settles when it is closed. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#state === "moved") return;
    this.#state = "closing";
    if (this.#borrowers > 0) {
      await new Promise<void>((resolve) => {
        this.#whenUnused = resolve;
      });
    }
    this.#state = "closed";
    this.#closer.close(this.#fd);
  }
}
