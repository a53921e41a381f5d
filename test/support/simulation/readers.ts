// SPDX-License-Identifier: Apache-2.0
// Where a simulated reader reads next: on from its last READ of that object, in its own way.

import { BLOCK_BYTES, type Extent, extentEnd } from "../../../src/units.ts";
import type { FakeObject, FakeRead } from "../fake-kernel.ts";
import { blocks } from "../flow-rig.ts";
import type { ReaderShape } from "./world.ts";

/** Undefined: it has come to the end. `at` says where it begins, or jumps to. */
export function nextRead(
  before: readonly FakeRead[],
  { object, shape, at }: { object: FakeObject; shape: ReaderShape; at: number },
): Extent | undefined {
  const count = object.file.length / BLOCK_BYTES;
  const last = before.findLast((read) => read.object === object)?.extent;
  const first = last === undefined ? at % count : startOf(last, shape, at % count);
  if (first < 0 || first >= count) return undefined;
  return blocks(first, Math.min(count, first + shape.blocks));
}

function startOf(
  last: Extent,
  { kind, blocks: length, strideBlocks }: ReaderShape,
  anywhere: number,
): number {
  const lastFirst = last.offset / BLOCK_BYTES;
  switch (kind) {
    case "sequential":
      return extentEnd(last) / BLOCK_BYTES;
    case "backward":
      return lastFirst - length;
    case "strided":
      return lastFirst + strideBlocks;
    case "again":
      return lastFirst;
    case "random":
      break;
  }
  return anywhere;
}
