// SPDX-License-Identifier: Apache-2.0
// The first thing to prefetch within a part of a stream: what some open object lacks, nobody is
// fetching and may be served.

import { minus } from "../../planner/plan-fill.ts";
import { BLOCK_BYTES, type Extent, MIB, extentEnd } from "../../units.ts";
import type { StreamFlow } from "../stream-flow.ts";

/** How much of a bitmap is looked at in one go. */
const LOOK_BYTES = 16 * MIB;

export interface NextFill {
  /** Undefined: nothing to fetch before `next`. */
  readonly extent: Extent | undefined;
  /** Where to look from the next time. */
  readonly next: number;
}

/** `offset` is on a block boundary. */
export function planBefore(
  flow: StreamFlow,
  part: { readonly offset: number; readonly end: number },
  storedBytesMax: number,
): NextFill {
  const { map } = flow.stream;
  const end = Math.min(part.end, flow.streamEnd);
  if (part.offset >= end) return { extent: undefined, next: end };
  const within = { offset: part.offset, length: Math.min(end - part.offset, LOOK_BYTES) };
  const missing = firstMissing(flow, within);
  if (missing === undefined) return { extent: undefined, next: extentEnd(within) };

  const length = Math.min(missing.length, flow.fetchMax.logicalBytesMax);
  const wanted = map.widen({ offset: missing.offset, length });
  const [free] = minus([wanted], flow.inFlight);
  if (free === undefined) return { extent: undefined, next: extentEnd(wanted) };
  const { logicalBytesMax } = flow.fetchMax;
  const extent = map.cut(free, { logicalBytesMax, storedBytesMax });
  if (extent.length > 0) return { extent, next: extentEnd(extent) };
  const refused = map.widen({ offset: free.offset, length: BLOCK_BYTES });
  return { extent: undefined, next: Math.max(extentEnd(refused), part.offset + BLOCK_BYTES) };
}

function firstMissing(flow: StreamFlow, within: Extent): Extent | undefined {
  let first: Extent | undefined;
  for (const { queued, blocks } of flow.objects) {
    if (queued !== undefined) continue;
    const [missing] = blocks.missing(within);
    if (missing !== undefined && missing.offset < (first?.offset ?? Infinity)) first = missing;
  }
  return first;
}
