// SPDX-License-Identifier: Apache-2.0
// Chance that repeats: the same seed draws the same numbers. Algorithm: mulberry32 by Tommy
// Ettinger, public domain.

export interface SeededRandom {
  /** An integer in [min, max]. */
  between(min: number, max: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T | undefined;
  /** In place. */
  shuffle(items: unknown[]): void;
}

export function seededRandom(seed: number): SeededRandom {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const between = (min: number, max: number): number => min + Math.floor(next() * (max - min + 1));
  return {
    between,
    chance: (probability) => next() < probability,
    pick: (from) => from[between(0, from.length - 1)],
    shuffle(items) {
      for (let i = items.length - 1; i > 0; i -= 1) {
        const j = between(0, i);
        const [a, b] = [items[i], items[j]];
        [items[i], items[j]] = [b, a];
      }
    },
  };
}
