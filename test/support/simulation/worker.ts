// SPDX-License-Identifier: Apache-2.0
// A thread that plays schedules and tells how they went: every `step`th seed of a range.
//   worker FIRST LAST STEP FAILURES_MAX SHRINKS

import { parentPort } from "node:worker_threads";
import { showFailure, shrink, simulate } from "./simulate.ts";

export type Told =
  | { readonly kind: "progress"; readonly passed: number }
  | {
      readonly kind: "failed";
      readonly seed: number;
      readonly violations: readonly string[];
      readonly text: string;
    };

const TELL_EVERY = 50;
const [first = 0, last = 0, step = 1, failuresMax = 1, shrinks = 0] = process.argv
  .slice(2)
  .map(Number);
let seed = first;

function tell(told: Told): void {
  parentPort?.postMessage(told, []);
}

// What nobody catches would end the daemon; it is told with its seed, and ends the thread.
process.once("unhandledRejection", (error) => {
  const what = `nobody catches: ${error instanceof Error ? error.message : String(error)}`;
  tell({ kind: "failed", seed, violations: [what], text: `seed ${seed}: ${what}` });
  process.exit(0);
});

let failures = 0;
let passed = 0;
for (; seed <= last && failures < failuresMax; seed += step) {
  const { violations } = await simulate(seed);
  if (violations.length > 0) {
    failures += 1;
    const shrunk = shrinks === 1 ? await shrink(seed) : undefined;
    const text = shrunk === undefined ? `seed ${seed}: ${violations[0]}` : showFailure(shrunk);
    tell({ kind: "failed", seed, violations, text });
    continue;
  }
  passed += 1;
  if (passed < TELL_EVERY) continue;
  tell({ kind: "progress", passed });
  passed = 0;
}
tell({ kind: "progress", passed });
