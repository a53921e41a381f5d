// SPDX-License-Identifier: Apache-2.0
// Sorting millions of 32-bit keys and knowing where each came from: three counting passes of 11
// bits, some ten times as fast as a comparison sort of pairs.

const DIGIT_BITS = 11;
const DIGITS = 2 ** DIGIT_BITS;

export interface SortedKeys {
  /** Ascending. */
  readonly keys: Uint32Array;
  /** keys[n] was at order[n]. */
  readonly order: Uint32Array;
}

/** Stable. `unsorted` stays as it is. */
export function radixSort(unsorted: Uint32Array): SortedKeys {
  const order = new Uint32Array(unsorted.length);
  for (let at = 0; at < order.length; at += 1) order[at] = at;
  let from: SortedKeys = { keys: unsorted, order };
  for (const shift of [0, DIGIT_BITS, 2 * DIGIT_BITS]) {
    from = sortByDigit(from, shift);
  }
  return from;
}

function sortByDigit({ keys, order }: SortedKeys, shift: number): SortedKeys {
  const next = new Uint32Array(DIGITS + 1);
  for (let at = 0; at < keys.length; at += 1) {
    const digit = ((keys[at] ?? 0) >>> shift) & (DIGITS - 1);
    next[digit + 1] = (next[digit + 1] ?? 0) + 1;
  }
  for (let digit = 1; digit <= DIGITS; digit += 1) {
    next[digit] = (next[digit] ?? 0) + (next[digit - 1] ?? 0);
  }
  const sorted = { keys: new Uint32Array(keys.length), order: new Uint32Array(keys.length) };
  for (let at = 0; at < keys.length; at += 1) {
    const key = keys[at] ?? 0;
    const digit = (key >>> shift) & (DIGITS - 1);
    const place = next[digit] ?? 0;
    next[digit] = place + 1;
    sorted.keys[place] = key;
    sorted.order[place] = order[at] ?? 0;
  }
  return sorted;
}
