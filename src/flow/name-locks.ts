// SPDX-License-Identifier: Apache-2.0
// One at a time says what a name stands for, or opens it: between the look at a binding and the
// answer that tells the kernel its size nobody may bind the name to something else.

import type { CookieName } from "../state/bindings.ts";

export class NameLocks {
  readonly #locks = new Map<string, Promise<void>>();

  /** Waits for whoever has `name`, then keeps others out until the returned function is called. */
  async lock(name: CookieName): Promise<() => void> {
    const id = `${name.volumeKey}\0${name.cookieKey}`;
    for (let other = this.#locks.get(id); other !== undefined; other = this.#locks.get(id)) {
      await other;
    }
    let wake: () => void = () => undefined;
    const lock = new Promise<void>((resolve) => {
      wake = resolve;
    });
    this.#locks.set(id, lock);
    return () => {
      if (this.#locks.get(id) === lock) this.#locks.delete(id);
      wake();
    };
  }
}
