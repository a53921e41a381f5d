// SPDX-License-Identifier: Apache-2.0
// The way of a miss, top to bottom:
//
//   kernel READ -> cached? -> failed just now? -> plan -> flights (fetch, write) -> answer
//
// A request that is not answered here waits in object.waiters; the flight that writes its last
// block answers it, the flight that cannot fails it, and its own deadline ends what is left.

import { DaemonError } from "../errors.ts";
import type { ReadRequest } from "../kernel/transport.ts";
import { planFill } from "../planner/plan-fill.ts";
import { type Extent, extentEnd } from "../units.ts";
import { overlaps } from "./failure-memory.ts";
import type { OpenObject, Waiter } from "./open-object.ts";
import type { StreamFlow } from "./stream-flow.ts";

/**
 * Serves one READ of an object that has finished loading. Answers it now or arranges for it;
 * `sinceMs` is when it came.
 */
export function serveRead(
  flow: StreamFlow,
  object: OpenObject,
  request: ReadRequest,
  sinceMs = flow.parts.clock.nowMs(),
): void {
  const { extent } = request;
  const patient = goesOnInOrder(flow, object, extent.offset);
  object.lastReadEnd = extentEnd(extent);

  const missing = object.blocks.missing(extent);
  if (missing.length === 0) {
    request.complete();
    return;
  }
  const failure = flow.failures.find(missing) ?? object.failures.find(missing);
  if (failure !== undefined) {
    flow.counters.failedReads += 1;
    request.fail(failure);
    return;
  }

  // The fetch gives up a little before the reader does, so that its cause is what is reported.
  const deadlineMs = sinceMs + 0.95 * flow.parts.limits.readTimeoutMs;
  const plan = planFill({
    want: extent,
    windowBytes: flow.parts.limits.windowBytes,
    map: flow.stream.map,
    fetchMax: flow.fetchMax,
    streamEnd: flow.streamEnd,
    missing: (within) => object.blocks.missing(within),
    inFlight: [...flow.flights].map((flight) => flight.extent),
  });
  if (plan.refused !== undefined) {
    refuse(flow, request, plan.refused);
    return;
  }
  object.waiters.add(waiterOf(flow, object, { request, patient, sinceMs }));
  for (const flight of flow.flights) {
    if (missing.some((part) => overlaps(flight.extent, part))) flight.addTarget(object);
  }
  for (const fetch of plan.fetches) flow.launch(fetch, deadlineMs).addTarget(object);
}

function refuse(flow: StreamFlow, request: ReadRequest, refused: Extent): void {
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

// The kernel asks for no cached byte: a reader in order skips from the end of one window to the
// first byte past it.
function goesOnInOrder(flow: StreamFlow, object: OpenObject, offset: number): boolean {
  const { lastReadEnd } = object;
  const skipped = offset - lastReadEnd;
  if (lastReadEnd < 0 || skipped < 0 || skipped > flow.parts.limits.windowBytes) return false;
  return object.blocks.missing({ offset: lastReadEnd, length: skipped }).length === 0;
}

/** A READ that waits for its object to finish loading: served then, or failed when that hangs. */
export function queuedRead(flow: StreamFlow, object: OpenObject, request: ReadRequest): Waiter {
  return waiterOf(flow, object, { request, patient: false, sinceMs: flow.parts.clock.nowMs() });
}

function waiterOf(
  flow: StreamFlow,
  object: OpenObject,
  asked: Pick<Waiter, "request" | "patient" | "sinceMs">,
): Waiter {
  const { clock, limits, log } = flow.parts;
  const { request, sinceMs } = asked;
  const { extent } = request;
  const leftMs = Math.max(0, sinceMs + limits.readTimeoutMs - clock.nowMs());
  const cancelDeadline = clock.after(leftMs, () => {
    object.waiters.delete(waiter);
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
  const waiter: Waiter = { ...asked, cancelDeadline };
  return waiter;
}
