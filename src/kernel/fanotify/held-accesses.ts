// SPDX-License-Identifier: Apache-2.0
// Accesses to files that a daemon before us left mounted and that are not served yet. Each waits
// until its file is, for as long as a read may.

import type { Clock } from "../../platform/clock.ts";
import type { Access } from "./event-queue.ts";

export interface HeldAccessesParts {
  readonly clock: Clock;
  readonly readTimeoutMs: number;
  /** It has waited for too long. */
  readonly onLate: (access: Access) => void;
}

export class HeldAccesses {
  readonly #parts: HeldAccessesParts;
  /** With what cancels their deadlines. */
  readonly #held = new Map<Access, () => void>();

  constructor(parts: HeldAccessesParts) {
    this.#parts = parts;
  }

  add(access: Access): void {
    const { clock, readTimeoutMs, onLate } = this.#parts;
    const cancel = clock.after(readTimeoutMs, () => {
      this.#held.delete(access);
      onLate(access);
    });
    this.#held.set(access, cancel);
  }

  /** They are held no more; in the order they came. */
  take(isTaken: (access: Access) => boolean = () => true): Access[] {
    const taken = [...this.#held].filter(([access]) => isTaken(access));
    for (const [access, cancel] of taken) {
      cancel();
      this.#held.delete(access);
    }
    return taken.map(([access]) => access);
  }
}
