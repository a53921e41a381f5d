// SPDX-License-Identifier: Apache-2.0
// Keeps what an observer is to be told until it is there: loading a metrics library must not hold
// up the first fetch. Bounded: of what happens before, the first EVENTS_MAX are told.

import type { RegistryObserver } from "./options.ts";

const EVENTS_MAX = 4096;

type Event = (to: Required<RegistryObserver>) => void;

export interface LaterObserver extends Required<RegistryObserver> {
  /** From now on events go to `to`, after those that were kept. */
  arrived(to: Required<RegistryObserver>): void;
}

export function laterObserver(): LaterObserver {
  const kept: Event[] = [];
  let target: Required<RegistryObserver> | undefined;
  const tell = (event: Event): void => {
    if (target !== undefined) event(target);
    else if (kept.length < EVENTS_MAX) kept.push(event);
  };
  return {
    arrived(to) {
      target = to;
      for (const event of kept.splice(0)) event(to);
    },
    request: (...of) => tell((to) => to.request(...of)),
    bytes: (...of) => tell((to) => to.bytes(...of)),
    failure: (...of) => tell((to) => to.failure(...of)),
    firstByte: (...of) => tell((to) => to.firstByte(...of)),
    transfer: (...of) => tell((to) => to.transfer(...of)),
    hedge: (...of) => tell((to) => to.hedge(...of)),
    peerRace: (...of) => tell((to) => to.peerRace(...of)),
    peerFailure: (...of) => tell((to) => to.peerFailure(...of)),
    breaker: (...of) => tell((to) => to.breaker(...of)),
  };
}
