// SPDX-License-Identifier: Apache-2.0
// What a report tells, worked out of an image's history and its files. Pure.

import type { ImageHistory, StreamHistoryAnswer } from "../../control/history-schema.ts";
import { FileIndex } from "../../image/trace-files.ts";
import type { TraceFile } from "../../image/trace-format.ts";

export const KINDS = ["demand", "ahead", "prefetch"] as const;
export type Kind = (typeof KINDS)[number];

export interface Wait {
  readonly sinceMs: number;
  readonly ms: number;
  readonly stream: number;
  readonly offset: number;
  readonly length: number;
  /** The file most of it is of. */
  readonly path: string;
}

export interface Fill {
  readonly sinceMs: number;
  readonly untilMs: number;
  readonly kind: Kind;
}

export interface FileLoss {
  readonly path: string;
  readonly waits: number;
  readonly ms: number;
  readonly longestMs: number;
  readonly bytes: number;
}

/** A part of a stream's map. */
export interface Cell {
  /** Of it is cached, 0 to 1. */
  readonly share: number;
  /** When it came first; undefined: before all this, or later than what was kept. */
  readonly atMs: number | undefined;
  readonly kind: Kind | undefined;
}

export interface Report {
  readonly history: ImageHistory;
  /** In the order in which they began. */
  readonly waits: readonly Wait[];
  readonly fills: readonly Fill[];
  readonly losses: readonly FileLoss[];
  /** At least one reader waited, in all. */
  readonly lostMs: number;
  readonly laterWaits: number;
  readonly maps: readonly (readonly Cell[])[];
}

/** `files`: parts by the image's devices. */
export function makeReport(history: ImageHistory, files: readonly TraceFile[]): Report {
  const index = new FileIndex(files);
  const waits = history.streams
    .flatMap(({ waits: all }, stream) =>
      all.map(([sinceMs, untilMs, offset, length]): Wait => {
        const path = mainFile(index, { stream, offset, length });
        return { sinceMs, ms: untilMs - sinceMs, stream, offset, length, path };
      }),
    )
    .sort((a, b) => a.sinceMs - b.sinceMs);
  const fills = history.streams
    .flatMap(({ fills: all }) =>
      all.map(([sinceMs, untilMs, , , kind]): Fill => ({ sinceMs, untilMs, kind: kindOf(kind) })),
    )
    .sort((a, b) => a.sinceMs - b.sinceMs);
  return {
    history,
    waits,
    fills,
    losses: lossesOf(waits),
    lostMs: unionMs(waits),
    laterWaits: history.streams.reduce((sum, { laterWaits }) => sum + laterWaits, 0),
    maps: history.streams.map(cellsOf),
  };
}

function kindOf(number: number): Kind {
  return KINDS[number] ?? "prefetch";
}

function mainFile(
  index: FileIndex,
  { stream, ...extent }: { stream: number; offset: number; length: number },
): string {
  const bytes = new Map<string, number>();
  for (const { path, length } of index.within(stream, extent)) {
    bytes.set(path, (bytes.get(path) ?? 0) + length);
  }
  const [most] = [...bytes].sort((a, b) => b[1] - a[1]);
  return most?.[0] ?? "";
}

function lossesOf(waits: readonly Wait[]): FileLoss[] {
  const losses = new Map<string, FileLoss>();
  for (const { path, ms, length } of waits) {
    const before = losses.get(path) ?? { path, waits: 0, ms: 0, longestMs: 0, bytes: 0 };
    losses.set(path, {
      path,
      waits: before.waits + 1,
      ms: before.ms + ms,
      longestMs: Math.max(before.longestMs, ms),
      bytes: before.bytes + length,
    });
  }
  return [...losses.values()].sort((a, b) => b.ms - a.ms);
}

function unionMs(waits: readonly Wait[]): number {
  let [sum, end] = [0, -Infinity];
  for (const { sinceMs, ms } of waits) {
    const from = Math.max(sinceMs, end);
    end = Math.max(end, sinceMs + ms);
    sum += Math.max(0, end - from);
  }
  return sum;
}

function cellsOf({ cached, sizeBytes, fills }: StreamHistoryAnswer): Cell[] {
  const bytes = cached.length === 0 ? 1 : Math.max(1, Math.ceil(sizeBytes / cached.length));
  const firsts = cached.map((): number | undefined => undefined);
  const kinds = cached.map(() => [0, 0, 0]);
  for (const [, untilMs, offset, length, kind] of fills) {
    const last = Math.min(cached.length - 1, Math.floor((offset + length - 1) / bytes));
    for (let cell = Math.floor(offset / bytes); cell <= last; cell += 1) {
      firsts[cell] = Math.min(firsts[cell] ?? Infinity, untilMs);
      const within = Math.min(offset + length, (cell + 1) * bytes) - Math.max(offset, cell * bytes);
      const counts = kinds[cell];
      if (counts !== undefined) counts[kind] = (counts[kind] ?? 0) + within;
    }
  }
  return cached.map((percent, cell) => {
    const counts = kinds[cell] ?? [];
    const most = Math.max(...counts);
    const kind = most > 0 ? kindOf(counts.indexOf(most)) : undefined;
    return { share: percent / 100, atMs: firsts[cell], kind };
  });
}
