// SPDX-License-Identifier: Apache-2.0
// Ownership of one unanswered kernel request: it takes exactly one answer.
// A second answer is our bug and throws; a request that is never answered hangs a process,
// so the door keeps every pending request and fails what is left when it stops.

import { invariant } from "../errors.ts";

let lastId = 0;

export class PendingRequest {
  /** Unique in this process, counting up. */
  readonly id = (lastId += 1);
  readonly #label: string;
  readonly #onAnswered: () => void;
  #state: "waiting" | "answered" | "gone" = "waiting";

  constructor(label: string, onAnswered: () => void) {
    this.#label = label;
    this.#onAnswered = onAnswered;
  }

  get answered(): boolean {
    return this.#state !== "waiting";
  }

  /** Runs `send` as the one answer. A request the kernel has taken back is skipped silently. */
  answer(send: () => void): void {
    if (this.#state === "gone") return;
    invariant(this.#state === "waiting", `${this.#label} answered twice`);
    this.#state = "answered";
    this.#onAnswered();
    send();
  }

  // waiting -> gone: the door answers it itself; whoever holds it may answer later, silently.
  preempt(send: () => void): void {
    if (this.#state !== "waiting") return;
    this.withdraw();
    send();
  }

  // waiting -> gone: the kernel no longer waits (its object closed, its reader was killed).
  withdraw(): void {
    if (this.#state !== "waiting") return;
    this.#state = "gone";
    this.#onAnswered();
  }
}
