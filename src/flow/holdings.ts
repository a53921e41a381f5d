// SPDX-License-Identifier: Apache-2.0
// What the planner needs to know of a stream and one of its objects.

import { gapBytes } from "../planner/link-facts.ts";
import type { Holdings } from "../planner/plan-fill.ts";
import type { OpenObject } from "./open-object.ts";
import type { StreamFlow } from "./stream-flow.ts";

export function holdingsOf(flow: StreamFlow, { blocks }: OpenObject): Holdings {
  const { stream, fetchMax, streamEnd, inFlight } = flow;
  return {
    map: stream.map,
    fetchMax,
    streamEnd,
    missing: (within) => blocks.missing(within),
    inFlight,
    gapBytes: gapBytes(flow.way.link),
  };
}
