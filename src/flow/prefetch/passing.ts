// SPDX-License-Identifier: Apache-2.0
// Faults that pass: a prefetch waits for their end, however long it takes.

import type { Code, DaemonError } from "../../errors.ts";

const PASSING: readonly Code[] = [
  "registry_unreachable",
  "registry_timeout",
  "registry_failed",
  "registry_throttled",
  "deadline_exceeded",
  "failed_recently",
];

export function isPassing({ fault }: DaemonError): boolean {
  return PASSING.includes(fault.code);
}
