// SPDX-License-Identifier: Apache-2.0
// The way of a miss, top to bottom:
//
//   kernel READ -> cached? -> failed just now? -> plan -> flights (fetch, write) -> answer
//
// A request that is not answered here waits in object.waiters; the flight that writes its last
// block answers it, the flight that cannot fails it, and its own deadline ends what is left.

import { DaemonError } from "../errors.ts";
import {
  demandBytes,
  fullBytes,
  orderedPiece,
  freeBytes,
  strayBytes,
} from "../planner/link-facts.ts";
import { minus, planAhead, planFill } from "../planner/plan-fill.ts";
import type { Track, Verdict } from "../planner/read-pattern.ts";
import { BLOCK_BYTES, type Extent, alignUp, extentEnd } from "../units.ts";
import { holdingsOf } from "./holdings.ts";
import type { OpenObject, Waiter } from "./open-object.ts";
import type { ServedRead } from "./served-read.ts";
import type { StreamFlow } from "./stream-flow.ts";
import { patienceMs } from "./stream.ts";

/** Serves one READ of an object that has finished loading. Answers it now or arranges for it. */
export function serveRead(flow: StreamFlow, object: OpenObject, request: ServedRead): void {
  const { extent } = request;
  const verdict = object.pattern.note(
    extent,
    {
      isCached: (passed) => object.blocks.covers(passed),
      isHeld: (passed) => flow.isHeld(object, passed),
    },
    alignUp(fullBytes(flow.way) * flow.expansion, BLOCK_BYTES),
  );

  // What a trace brings is not read ahead of as well, nor what one is made of.
  const isExpected = request.isRecorded || flow.isExpected(extent);
  const missing = object.blocks.missing(extent);
  if (missing.length === 0) {
    request.complete();
    if (!isExpected) readAhead(flow, object, { verdict, cause: request.id });
    return;
  }
  request.found = "joined";
  const failure = flow.failures.find(missing) ?? object.failures.find(missing);
  if (failure !== undefined) {
    flow.counters.failedReads += 1;
    request.fail(failure);
    return;
  }
  if (verdict.track.kind === "random") for (const flight of flow.flights) flight.withdraw();
  const waiter = waiterOf(flow, object, request);
  object.waiters.add(waiter);
  if (isExpected) {
    fill(flow, object, { waiter });
    return;
  }
  if (!fill(flow, object, { waiter, verdict })) return;
  readAhead(flow, object, { verdict, cause: request.id });
  if (!request.isOwn) fillNeighbours(flow, object, verdict);
}

/** Fetches what `waiter` still lacks, or joins what brings it; false when it may not be served. */
function fill(
  flow: StreamFlow,
  object: OpenObject,
  by: { waiter: Waiter; verdict?: Verdict; isSecondTry?: boolean },
): boolean {
  const { waiter, verdict, isSecondTry = false } = by;
  const { request } = waiter;
  const want = request.extent;
  const windowBytes = verdict === undefined ? BLOCK_BYTES : demandWindow(flow, verdict.track);
  const extraStoredMax = demandBytes(flow.way.link);
  const plan = planFill({ ...holdingsOf(flow, object), want, windowBytes, extraStoredMax });
  if (plan.refused !== undefined) {
    object.forget(waiter);
    refuse(flow, request, plan.refused);
    return false;
  }
  const deadlineMs = fetchDeadlineMs(flow, waiter);
  flow.join(object, object.blocks.missing(want), { deadlineMs, cause: request.id });
  const group = verdict?.track ?? object;
  for (const extent of plan.fetches) {
    request.found = "fetched";
    const by = { urgency: "demand", deadlineMs, group, isSecondTry, cause: request.id } as const;
    flow.launch(extent, by).addTarget(object);
    if (verdict !== undefined) object.pattern.planned(verdict.track, extentEnd(extent));
  }
  return true;
}

/**
 * What was under way for others, or wrong, has failed: `waiter` gets a fetch of its own. What was
 * refused as a whole comes again as a whole: nothing less of it can be verified.
 */
export function refill(
  flow: StreamFlow,
  object: OpenObject,
  { waiter, refused }: { waiter: Waiter; refused: Extent | undefined },
): void {
  const isComing = flow.inFlight.some(({ length }) => length === refused?.length);
  // Beside a flight that brings a part of it, too.
  if (refused !== undefined && !isComing) {
    const deadlineMs = fetchDeadlineMs(flow, waiter);
    const by = { urgency: "demand", deadlineMs, group: object, isSecondTry: true } as const;
    flow.launch(refused, { ...by, cause: waiter.request.id }).addTarget(object);
    return;
  }
  fill(flow, object, { waiter, isSecondTry: true });
}

function fetchDeadlineMs({ parts }: StreamFlow, { request }: Waiter): number {
  return request.sinceMs + patienceMs(parts.limits);
}

/** Fetches what a reader is likely to ask for next, at lower urgency and in small pieces. */
function readAhead(
  flow: StreamFlow,
  object: OpenObject,
  { verdict, cause }: { readonly verdict: Verdict; readonly cause: number },
): void {
  const { track } = verdict;
  const { clock, limits } = flow.parts;
  const pieceMax = orderedPiece(flow.way, flow.orderedMax);
  const deadlineMs = clock.nowMs() + patienceMs(limits);
  for (const extent of [...restOfFirst(flow, track), ...verdict.ahead]) {
    for (const piece of planAhead(extent, holdingsOf(flow, object), pieceMax)) {
      const isInOrder = track.kind === "sequential" && piece.length >= pieceMax.logicalBytesMax / 2;
      flow.launch(piece, { urgency: "ahead", deadlineMs, group: track, cause, isInOrder });
    }
  }
}

/** What lies around a READ that continues nothing. */
function fillNeighbours(flow: StreamFlow, object: OpenObject, { track }: Verdict): void {
  if (!flow.parts.limits.fillsNeighbours) return;
  if (track.kind !== "first" && track.kind !== "random") return;
  const missingBytes = (extent: Extent): number =>
    minus(object.blocks.missing(extent), flow.inFlight).reduce(
      (sum, { length }) => sum + length,
      0,
    );
  const isStray = track.kind === "random";
  const { windowBytesMax } = flow.parts.limits;
  const reachBytes = Math.min(freeBytes(flow.way.link) * flow.expansion, windowBytesMax);
  const of = { isStray, reachBytes };
  const neighbours = object.neighbourhood.jumped(track.last, of, missingBytes);
  if (neighbours !== undefined) {
    flow.parts.neighbours.want(flow, object, { neighbours, group: object.neighbourhood });
  }
}

/** What of a first window did not go into the reader's own request. */
function restOfFirst(flow: StreamFlow, { kind, last, aheadEnd }: Track): Extent[] {
  if (kind !== "first") return [];
  const { windowBytes } = flow.parts.limits;
  const windowEnd = Math.min(last.offset + windowBytes, flow.streamEnd);
  const lastUnit = flow.stream.map.widen({ offset: windowEnd - BLOCK_BYTES, length: BLOCK_BYTES });
  const end = extentEnd(lastUnit) > windowEnd ? lastUnit.offset : windowEnd;
  return end > aheadEnd ? [{ offset: aheadEnd, length: end - aheadEnd }] : [];
}

/** How far one demand request reads on, logical bytes. */
function demandWindow({ parts, way }: StreamFlow, { kind }: Track): number {
  const { windowBytes } = parts.limits;
  if (kind === "backward" || kind === "strided") return BLOCK_BYTES;
  if (kind === "random") return Math.min(windowBytes, strayBytes(way.link));
  return windowBytes;
}

function refuse(flow: StreamFlow, request: ServedRead, refused: Extent): void {
  const detail = `the chunk at ${refused.offset} of ${flow.stream.digest} has no digest in any bound image`;
  const error = new DaemonError({ code: "chunk_untrusted", where: flow.stream.where, detail });
  flow.counters.failedReads += 1;
  // Remembered for the log alone: an image that vouches for it may be bound at any moment.
  if (flow.refusals.find([refused]) === undefined) {
    flow.refusals.remember(refused, error);
    flow.parts.log.warn({ code: error.fault.code, hint: error.policy.hint }, error.message);
  }
  request.fail(error);
}

/** A READ that waits for its object to finish loading: served then, or failed when that hangs. */
export function queuedRead(flow: StreamFlow, object: OpenObject, request: ServedRead): Waiter {
  return waiterOf(flow, object, request);
}

function waiterOf(flow: StreamFlow, object: OpenObject, request: ServedRead): Waiter {
  const { clock, limits, log } = flow.parts;
  const { extent, sinceMs } = request;
  const leftMs = Math.max(0, sinceMs + limits.readTimeoutMs - clock.nowMs());
  const cancelDeadline = clock.after(leftMs, () => {
    object.forget(waiter);
    const what = `reading ${extent.length} bytes at ${extent.offset} of ${flow.stream.digest} from ${flow.stream.where}`;
    const error = new DaemonError({
      code: "deadline_exceeded",
      what,
      timeoutMs: limits.readTimeoutMs,
    });
    // Only what is still missing has failed; the kernel will ask for it again at once.
    for (const part of object.blocks.missing(extent)) object.failures.remember(part, error);
    log.warn(
      { code: error.fault.code, key: object.kernel.cookieKey, hint: error.policy.hint },
      error.message,
    );
    flow.counters.failedReads += 1;
    request.fail(error);
  });
  const waiter: Waiter = { request, cancelDeadline };
  return waiter;
}
