// SPDX-License-Identifier: Apache-2.0
// How late the event loop is: a timer that should have come a moment ago says so.

import type { Clock } from "./clock.ts";

const EVERY_MS = 100;

/** Tells `onDelay`, ten times a second, how late it was asked; the returned function ends it. */
export function watchLoopDelay(clock: Clock, onDelay: (delayMs: number) => void): () => void {
  let cancel: () => void = () => undefined;
  const again = (): void => {
    const dueMs = clock.nowMs() + EVERY_MS;
    cancel = clock.after(EVERY_MS, () => {
      onDelay(Math.max(0, clock.nowMs() - dueMs));
      again();
    });
  };
  again();
  return () => {
    cancel();
  };
}
