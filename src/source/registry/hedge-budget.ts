// SPDX-License-Identifier: Apache-2.0
// How many demand requests may be made twice: each request earns its few per cent of a hedge, and
// a hedge costs a whole one. Quiet times save up for a bad spell, but never more than ten.

const SAVED_MAX = 10;

export class HedgeBudget {
  #share = 0;
  #saved = 0;

  /** Hedges per hundred demand requests; 0 for none at all. */
  constructor({ percent }: { readonly percent: number }) {
    this.set(percent);
  }

  /** From now on; what is saved stays, unless it is none at all. */
  set(percent: number): void {
    // The first late request after a start need not wait for thirty others.
    if (this.#share === 0) this.#saved = percent > 0 ? 1 : 0;
    this.#share = percent / 100;
    if (percent === 0) this.#saved = 0;
  }

  /** A demand request was made. */
  earn(): void {
    this.#saved = Math.min(SAVED_MAX, this.#saved + this.#share);
  }

  /** False when there is none left. */
  take(): boolean {
    // The sum of many small shares may lack the last bit of a whole one.
    if (this.#saved < 1 - 1e-9) return false;
    this.#saved -= 1;
    return true;
  }
}
