// SPDX-License-Identifier: Apache-2.0
// The history of an open image, put together when somebody asks.

import type { Engine } from "../flow/engine.ts";
import type { HistoryFill, HistoryEntry } from "../flow/stream-history.ts";
import { streamKey } from "../flow/streams.ts";
import type { Clock } from "../platform/clock.ts";
import type { StreamRecord } from "../state/bindings.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../units.ts";
import type { ControlOperations } from "./control-operations.ts";
import type { ImageHistory, StreamHistoryAnswer } from "./history-schema.ts";
import type { KnownImages } from "./known-images.ts";

/** Parts of a stream of which it is told how much is cached. */
const CELLS_MAX = 1024;
/** In one answer, of each kind: a few MB. */
const ENTRIES_MAX = 32_768;
const URGENCY_NUMBER = { demand: 0, ahead: 1, prefetch: 2 } as const;

export interface HistoryParts {
  readonly engine: Pick<Engine, "knownFlow">;
  readonly clock: Clock;
  readonly unixMs: () => number;
}

export function imageHistoryOf(
  images: Pick<KnownImages, "find">,
  parts: HistoryParts,
): ControlOperations["imageHistory"] {
  return (name) => {
    const { binding } = images.find(name);
    const { reference, manifestDigest, stream, devices } = binding;
    const flows = [stream, ...devices].map((record) => {
      const flow = parts.engine.knownFlow(streamKey(record));
      return { record, flow, waits: flow?.history.waits, fills: flow?.history.fills };
    });
    const nowMs = parts.clock.nowMs();
    const starts = flows.flatMap(({ waits, fills }) =>
      [...(waits?.entries ?? []), ...(fills?.entries ?? [])].map(({ sinceMs }) => sinceMs),
    );
    const startMs = starts.reduce((first, ms) => Math.min(first, ms), nowMs);
    const share = Math.max(1, Math.floor(ENTRIES_MAX / flows.length));
    return {
      reference,
      manifestDigest,
      format: stream.format === undefined ? "erofs" : "rafs",
      startedAt: new Date(parts.unixMs() - (nowMs - startMs)).toISOString(),
      ms: rounded(nowMs - startMs),
      streams: flows.map((of, index) => streamOf(of, { startMs, share, isFirst: index === 0 })),
    } satisfies ImageHistory;
  };
}

interface Known<T> {
  readonly entries: readonly T[];
  readonly later: number;
}

function streamOf(
  of: {
    readonly record: StreamRecord;
    readonly flow: ReturnType<Engine["knownFlow"]>;
    readonly waits: Known<HistoryEntry> | undefined;
    readonly fills: Known<HistoryFill> | undefined;
  },
  { startMs, share, isFirst }: { startMs: number; share: number; isFirst: boolean },
): StreamHistoryAnswer {
  const { record, flow, waits = NONE, fills = NONE } = of;
  const objects = [...(flow?.objects ?? [])];
  const cachedBytes = Math.max(0, ...objects.map(({ blocks }) => blocks.cachedBytes));
  const span = ({ sinceMs, untilMs, offset, length }: HistoryEntry) =>
    [rounded(sinceMs - startMs), rounded(untilMs - startMs), offset, length] as const;
  return {
    digest: record.digest,
    role: isFirst ? "bootstrap" : "device",
    sizeBytes: record.size,
    cachedBytes: Math.min(cachedBytes, record.size),
    fetchedBytes: flow?.counters.fetchedBytes ?? 0,
    open: objects.length > 0,
    cached: cellsOf(record.size, (extent) =>
      Math.min(
        ...objects.map(({ blocks }) =>
          blocks.missing(extent).reduce((sum, { length }) => sum + length, 0),
        ),
        extent.length,
      ),
    ),
    waits: waits.entries.slice(0, share).map((entry) => [...span(entry)]),
    laterWaits: waits.later + Math.max(0, waits.entries.length - share),
    fills: fills.entries
      .slice(0, share)
      .map((entry) => [...span(entry), URGENCY_NUMBER[entry.urgency]]),
    laterFills: fills.later + Math.max(0, fills.entries.length - share),
  };
}

const NONE = { entries: [], later: 0 };

function cellsOf(sizeBytes: number, missingBytes: (extent: Extent) => number): number[] {
  const end = alignUp(sizeBytes, BLOCK_BYTES);
  const cellBytes = alignUp(Math.ceil(end / CELLS_MAX), BLOCK_BYTES);
  const cells: number[] = [];
  for (let offset = 0; offset < end; offset += cellBytes) {
    const length = Math.min(cellBytes, end - offset);
    const missing = missingBytes({ offset, length });
    cells.push(Math.round(((length - missing) / length) * 100));
  }
  return cells;
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10;
}
