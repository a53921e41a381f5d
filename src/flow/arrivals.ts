// SPDX-License-Identifier: Apache-2.0
// Who looks at a flight's first bytes while it is under way: an OPEN that needs a superblock.

interface Waiting {
  readonly bytes: number;
  readonly resolve: (bytes: Uint8Array) => void;
  readonly reject: (error: unknown) => void;
}

export class Arrivals {
  readonly #waiting = new Set<Waiting>();

  /** The first `bytes` bytes, once `settle` says that they are there. */
  until(bytes: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.#waiting.add({ bytes, resolve, reject });
    });
  }

  /** `there` bytes of `slab` have come, of `all`; with an error no more will. */
  settle(of: {
    readonly there: number;
    readonly all: number;
    readonly slab: Uint8Array | undefined;
    readonly error: unknown;
  }): void {
    const { there, all, slab, error } = of;
    for (const one of this.#waiting) {
      const bytes = Math.min(one.bytes, all);
      if (there >= bytes && slab !== undefined) {
        this.#waiting.delete(one);
        one.resolve(slab.subarray(0, bytes));
      } else if (error !== undefined) {
        this.#waiting.delete(one);
        one.reject(error);
      }
    }
  }
}
