// SPDX-License-Identifier: Apache-2.0
// The recorded start of a program: what it asked for of one stream, in its order.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseTrace } from "../../../src/image/trace-format.ts";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import type { Extent } from "../../../src/units.ts";

export const START_TRACE = fileURLToPath(
  new URL("test/fixtures/traces/python-start.ndjson", findPackageRoot()),
);

export interface StartTrace {
  readonly sizeBytes: number;
  readonly reads: readonly Extent[];
}

export function startTrace(): StartTrace {
  const { streams, reads } = parseTrace(readFileSync(START_TRACE, "utf8"), START_TRACE);
  const [stream] = streams;
  if (stream === undefined) throw new Error(`${START_TRACE} names no stream`);
  const own = reads.filter((read) => read.stream === stream.stream);
  return {
    sizeBytes: stream.sizeBytes,
    reads: own.map(({ offset, length }) => ({ offset, length })),
  };
}
