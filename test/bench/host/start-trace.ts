// SPDX-License-Identifier: Apache-2.0
// The recorded start of a program: what it asked for of one stream, in its order.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseTrace } from "../../../src/image/trace-format.ts";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { BLOCK_BYTES, type Extent, alignDown } from "../../../src/units.ts";
import type { BenchImage } from "./images.ts";

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

/** Stored bytes of the units that the program's start touches. */
export function neededBytes(image: BenchImage): number {
  const unitBytes = image.chunkBytes ?? BLOCK_BYTES;
  const units = new Set<number>();
  for (const { offset, length } of startTrace().reads) {
    for (let at = alignDown(offset, unitBytes); at < offset + length; at += unitBytes) {
      units.add(at);
    }
  }
  return (units.size * unitBytes * image.storedBytes) / image.sizeBytes;
}
