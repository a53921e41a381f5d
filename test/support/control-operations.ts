// SPDX-License-Identifier: Apache-2.0
// Control operations for tests that are about few of them: the others must not be asked for.

import type { ControlOperations } from "../../src/control/control-operations.ts";

export function onlyOperations(given: Partial<ControlOperations>): ControlOperations {
  const never = (): never => {
    throw new Error("nobody asks for it here");
  };
  return {
    health: never,
    checkReady: never,
    config: never,
    register: never,
    images: never,
    image: never,
    mount: never,
    mounts: never,
    unmount: never,
    cacheUsage: never,
    removeImage: never,
    pruneCache: never,
    changeConfig: never,
    lastFailure: never,
    status: never,
    activity: never,
    metrics: never,
    pushCredentials: never,
    dropCredentials: never,
    trace: never,
    upgrade: never,
    imageFiles: never,
    imageHistory: never,
    events: never,
    startPrefetch: never,
    prefetches: never,
    prefetch: never,
    changePrefetch: never,
    cancelPrefetch: never,
    watchPrefetch: never,
    ...given,
  };
}
