// SPDX-License-Identifier: Apache-2.0
// What flow is told of a stream, what it counts of it, and the limits it keeps.

import type { DecodeUnit } from "../decoder/unit-decoder.ts";
import type { DaemonError } from "../errors.ts";
import type { ChunkMap } from "../image/chunk-map.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import type { SlabPool } from "../platform/slab-pool.ts";
import type { SharedPieces } from "../planner/link-facts.ts";
import type { Digest } from "../units.ts";
import type { FetchRange } from "./flight-parts.ts";
import type { FlowObserver } from "./flow-observer.ts";

export interface FlowLimits {
  /** Read-ahead past a first miss, bytes. */
  readonly windowBytes: number;
  /** Read-ahead of a reader who goes on in order, bytes; `windowBytes` at least. */
  readonly windowBytesMax: number;
  /** True: an idle link, or one that is not full, is used for what lies around misses. */
  readonly fillsNeighbours: boolean;
  /** True: a host that was left alone gets a second connection beside a reader's first request. */
  readonly opensSpares: boolean;
  /** Requests to one host at once, 1 or more. */
  readonly requestsPerHost: number;
  /** A READ is answered, with data or without, within this time. */
  readonly readTimeoutMs: number;
}

/** How long one fetch is tried: it gives up a little before its reader does, so that its cause is told. */
export function patienceMs({ readTimeoutMs }: Pick<FlowLimits, "readTimeoutMs">): number {
  return 0.95 * readTimeoutMs;
}

/** Of one stream since it was first opened. */
export interface StreamCounters {
  /** READs the kernel asked for: a reader found nothing cached. */
  reads: number;
  readBytes: number;
  failedReads: number;
  /** Stored bytes asked of the source. */
  fetchedBytes: number;
  fetches: number;
}

export interface FlowParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly slabs: SlabPool;
  readonly limits: FlowLimits;
  readonly observe?: FlowObserver | undefined;
  /** A fill of these keys failed; for whoever asks why their mount did. */
  readonly onFillFailure: (cookieKeys: readonly string[], error: DaemonError) => void;
}

export interface Stream {
  /** Tells streams apart: a digest may name a raw layer here and a Nydus blob there. */
  readonly key: string;
  readonly digest: Digest;
  readonly map: ChunkMap;
  /** Where it comes from, for the log: host and repository. */
  readonly where: string;
  /** What is reached over one link and limited together: a registry's host. */
  readonly host: string;
  readonly fetch: FetchRange;
  /** How ranges that nobody waits for are best cut, now; undefined: any will do. */
  readonly rangeHint?: (() => SharedPieces | undefined) | undefined;
  /** For maps with units. */
  readonly decode: DecodeUnit;
  /** Checks a raw stream's whole content; used when one flight carries all of it. */
  readonly verifyWhole?: ((bytes: Uint8Array) => void) | undefined;
}
