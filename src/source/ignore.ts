// SPDX-License-Identifier: Apache-2.0
// Spells out a failure that is ignored on purpose, so that no promise floats unexplained.

/** `reason` says why nobody needs to know how `work` ends. */
export function ignoreBecause(reason: string, work: Promise<unknown>): void {
  work.catch(() => reason);
}
