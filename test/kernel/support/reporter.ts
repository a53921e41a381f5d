// SPDX-License-Identifier: Apache-2.0
// Reporter for node:test: one line a test with its time, and last `N passed, N failed`.

import { inspect } from "node:util";

interface Outcome {
  readonly type: string;
  readonly data?: {
    readonly name?: string;
    readonly nesting?: number;
    readonly skip?: string | boolean;
    readonly details?: {
      readonly type?: string;
      readonly duration_ms?: number;
      readonly error?: Error;
    };
  };
}

/** Only a run of chosen tests may leave some out; in a whole run that is a failure. */
const IS_PART = process.execArgv.some((word) => word.startsWith("--test-name-pattern"));

/** Tests that a broken set-up kept from running count as failed. */
export default async function* report(outcomes: AsyncIterable<Outcome>): AsyncGenerator<string> {
  let passed = 0;
  let failed = 0;
  for await (const { type, data } of outcomes) {
    if (data?.details === undefined || (type !== "test:pass" && type !== "test:fail")) continue;
    const { name = "?", details, skip } = data;
    const error = details.error;
    if (details.type === "suite") {
      yield type === "test:fail" && !isOfSubtests(error)
        ? `   ${name}: ${describe(error)}\n`
        : `-- ${name}\n`;
      continue;
    }
    const seconds = `${((details.duration_ms ?? 0) / 1000).toFixed(2)} s`.padStart(9);
    if (type === "test:fail") {
      failed += 1;
      yield `FAIL ${seconds}  ${name}\n${indent(describe(error))}\n`;
    } else if (skip !== undefined && skip !== false) {
      failed += IS_PART ? 0 : 1;
      yield `skip            ${name}\n`;
    } else {
      passed += 1;
      yield `ok   ${seconds}  ${name}\n`;
    }
  }
  yield `${passed} passed, ${failed} failed\n`;
}

function isOfSubtests(error: unknown): boolean {
  return (
    typeof error === "object" &&
    error !== null &&
    "failureType" in error &&
    error.failureType === "subtestsFailed"
  );
}

function describe(error: Error | undefined): string {
  const cause = error?.cause ?? error;
  return cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause);
}

function indent(text: string): string {
  return text.replaceAll(/^/gm, "       ");
}
