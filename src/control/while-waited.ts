// SPDX-License-Identifier: Apache-2.0
// A client that goes away ends its own wait, not the work that others may share.

import { cancelledBy } from "../platform/clock.ts";

/** As `work` settles, or `cancelled` as soon as `signal` aborts; `work` does not notice. */
export async function whileWaited<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let leave: () => void = () => undefined;
  const left = new Promise<never>((_, reject) => {
    leave = () => {
      reject(cancelledBy(signal));
    };
  });
  signal.addEventListener("abort", leave, { once: true });
  if (signal.aborted) leave();
  try {
    return await Promise.race([work, left]);
  } finally {
    signal.removeEventListener("abort", leave);
  }
}
