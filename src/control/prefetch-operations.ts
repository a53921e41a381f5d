// SPDX-License-Identifier: Apache-2.0
// Prefetch, as control's clients ask for it.

import { DaemonError } from "../errors.ts";
import type { NameResolver } from "../flow/name-resolver.ts";
import type { PrefetchFacts, PrefetchWish, Prefetches } from "../flow/prefetch/prefetches.ts";
import { cookieKeyProblem } from "../kernel/cachefiles/keys.ts";
import type { ControlOperations } from "./control-operations.ts";
import type { PrefetchView, StartPrefetch } from "./prefetch-schema.ts";
import { whileWaited } from "./while-waited.ts";

/** Images that are being looked at for one, at once. */
const STARTING_MAX = 32;

export interface PrefetchOperationsParts {
  readonly prefetches: Prefetches;
  readonly names: Pick<NameResolver, "prepare">;
  /** Aborts when the daemon stops. */
  readonly stopping: AbortSignal;
}

export type PrefetchOperations = Pick<
  ControlOperations,
  | "startPrefetch"
  | "prefetches"
  | "prefetch"
  | "changePrefetch"
  | "cancelPrefetch"
  | "watchPrefetch"
>;

export function prefetchOperations(parts: PrefetchOperationsParts): PrefetchOperations {
  const { prefetches, names, stopping } = parts;
  let starting = 0;
  const start = async (request: StartPrefetch) => {
    if (starting >= STARTING_MAX) {
      const detail = `${STARTING_MAX} prefetches are being begun already`;
      throw new DaemonError({ code: "daemon_busy", detail });
    }
    starting += 1;
    try {
      const { reference, fsid } = request;
      const problem = fsid === undefined ? undefined : cookieKeyProblem(fsid);
      if (fsid !== undefined && problem !== undefined) {
        throw new DaemonError({ code: "key_refused", key: fsid, detail: problem });
      }
      const image = await names.prepare(reference, { fsid, signal: stopping });
      const { joined, ...facts } = await prefetches.start(image, wishOf(request), request);
      return { ...viewOf(facts), joined };
    } finally {
      starting -= 1;
    }
  };
  return {
    startPrefetch: (request, signal) => whileWaited(start(request), signal),
    prefetches: () => prefetches.list().map(viewOf),
    prefetch: (id) => viewOf(prefetches.get(id)),
    changePrefetch: async (id, change) => viewOf(await prefetches.change(id, change)),
    cancelPrefetch: async (id) => viewOf(await prefetches.cancel(id)),
    watchPrefetch(id, signal) {
      return eventsOf(prefetches.watch(id, signal));
    },
  };
}

async function* eventsOf(facts: AsyncIterable<PrefetchFacts>): AsyncGenerator<string, void> {
  for await (const each of facts) {
    yield `event: prefetch\ndata: ${JSON.stringify(viewOf(each))}\n\n`;
  }
}

function wishOf({ paths, globs, trace }: StartPrefetch): PrefetchWish {
  if (trace !== undefined) {
    const reads = trace.reads.map(([stream, offset, length]) => ({ stream, offset, length }));
    return { kind: "trace", trace: { ...trace, reads } };
  }
  if (paths === undefined && globs === undefined) return { kind: "all" };
  return { kind: "files", paths: paths ?? [], globs: globs ?? [] };
}

function viewOf(facts: PrefetchFacts): PrefetchView {
  const { what, state, isRunning, createdAtMs, endedAtMs, failure } = facts;
  const { totalBytes, cachedBytes, bytesPerSecond } = facts;
  const left = Math.max(0, totalBytes - cachedBytes);
  return {
    id: facts.id,
    reference: facts.reference,
    manifestDigest: facts.manifestDigest,
    fsid: facts.cookieKey,
    kind: what.kind,
    ...(what.kind === "files" ? { paths: what.paths, globs: what.globs } : {}),
    state: state === "active" ? (isRunning ? "running" : "waiting") : state,
    priority: facts.priority,
    bandwidthLimit: facts.bandwidthLimit,
    flightsMax: facts.flightsMax,
    totalBytes,
    cachedBytes,
    fetchedBytes: facts.fetchedBytes,
    bytesPerSecond,
    ...(isRunning && bytesPerSecond > 0
      ? { secondsLeft: Math.round((left / bytesPerSecond) * 10) / 10 }
      : {}),
    createdAt: new Date(createdAtMs).toISOString(),
    ...(endedAtMs === undefined ? {} : { endedAt: new Date(endedAtMs).toISOString() }),
    ...(failure === undefined ? {} : { failure }),
  };
}
