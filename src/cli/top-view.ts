// SPDX-License-Identifier: Apache-2.0
// What `erofsd top` shows, made of two answers of the daemon: rates between them, what is slow,
// mounts. Pure.

import type { ActivityAnswer, ReadSums } from "../control/activity-schema.ts";
import { type Style, printable, share, size, styleOf, table } from "./output.ts";

export interface TopMount {
  readonly mountPoint: string;
  readonly reference: string;
  readonly fsids: readonly string[];
}

export interface TopFacts {
  readonly before: ActivityAnswer;
  readonly now: ActivityAnswer;
  readonly mounts: readonly TopMount[];
  /** The file that lies there, where that is known. */
  readonly fileOf: (fsid: string, offset: number, length: number) => string | undefined;
}

export interface Top {
  /** Between the two answers; 0: there was one alone, and all rates are 0. */
  readonly seconds: number;
  readonly missesPerSecond: number;
  readonly failedPerSecond: number;
  /** Of the READs that the daemon was asked for, how many found all of it cached or on its way; 0 to 1. */
  readonly hitRatio: number | null;
  readonly fetchedBytesPerSecond: { demand: number; ahead: number; prefetch: number };
  readonly wastedBytesPerSecond: number;
  readonly waitingReads: number;
  readonly fillsInFlight: number;
  readonly mounts: readonly TopMountLine[];
  readonly waiting: readonly SlowLine[];
  readonly slow: readonly (SlowLine & {
    readonly agoMs: number;
    readonly code?: string | undefined;
  })[];
}

interface TopMountLine {
  readonly mountPoint: string;
  readonly reference: string;
  readonly missesPerSecond: number;
  readonly hitRatio: number | null;
  readonly readBytesPerSecond: number;
  readonly cachedBytes: number;
  readonly sizeBytes: number;
}

interface SlowLine {
  readonly waitedMs: number;
  /** Null: the bytes are in no file's own blocks, or it is not known in which. */
  readonly file: string | null;
  readonly mountPoint: string | null;
  readonly fsid: string;
  readonly offset: number;
  readonly length: number;
}

/** What happened between `before` and `now`. */
export function topOf(facts: TopFacts): Top {
  const { before, now, mounts } = facts;
  const seconds = Math.max(0, now.nowMs - before.nowMs) / 1000;
  const rate = (to: number, from: number): number =>
    seconds === 0 ? 0 : Math.max(0, to - from) / seconds;
  const place = placer(facts);
  const fetched = (urgency: "demand" | "ahead" | "prefetch"): number =>
    rate(now.fetchedBytes[urgency], before.fetchedBytes[urgency]);
  return {
    seconds,
    missesPerSecond: rate(misses(now.reads), misses(before.reads)),
    failedPerSecond: rate(now.reads.failed, before.reads.failed),
    hitRatio: hitRatio(now.reads, before.reads),
    fetchedBytesPerSecond: {
      demand: fetched("demand"),
      ahead: fetched("ahead"),
      prefetch: fetched("prefetch"),
    },
    wastedBytesPerSecond: rate(now.wastedBytes, before.wastedBytes),
    waitingReads: now.waitingReads,
    fillsInFlight: now.fillsInFlight,
    mounts: mounts.map((mount) => mountLine(mount, { before, now, rate })),
    waiting: now.waiting.map(place),
    slow: now.slow.map((each) => ({ ...place(each), agoMs: each.agoMs, code: each.code })),
  };
}

function misses(reads: ReadSums): number {
  return reads.joined + reads.fetched + reads.failed;
}

/** Of what was asked since `before`, else of all that was; null: nothing was. */
function hitRatio(now: ReadSums, before: ReadSums): number | null {
  const part = now.hits + now.joined - before.hits - before.joined;
  const whole = now.hits + misses(now) - before.hits - misses(before);
  if (whole > 0) return part / whole;
  const all = now.hits + misses(now);
  return all === 0 ? null : (now.hits + now.joined) / all;
}

function placer({ mounts, fileOf }: TopFacts) {
  return (read: { fsid: string; offset: number; length: number; waitedMs: number }): SlowLine => {
    const { fsid, offset, length, waitedMs } = read;
    const mount = mounts.find(({ fsids }) => fsids.includes(fsid));
    const file = fileOf(fsid, offset, length) ?? null;
    return { waitedMs, file, mountPoint: mount?.mountPoint ?? null, fsid, offset, length };
  };
}

function mountLine(
  { mountPoint, reference, fsids }: TopMount,
  of: {
    readonly before: ActivityAnswer;
    readonly now: ActivityAnswer;
    readonly rate: (to: number, from: number) => number;
  },
): TopMountLine {
  const sums = ({ objects }: ActivityAnswer) => {
    const total = { hits: 0, joined: 0, fetched: 0, failed: 0, bytes: 0, cached: 0, size: 0 };
    for (const { fsid, reads, cachedBytes, sizeBytes } of objects) {
      if (!fsids.includes(fsid)) continue;
      total.hits += reads.hits;
      total.joined += reads.joined;
      total.fetched += reads.fetched;
      total.failed += reads.failed;
      total.bytes += reads.bytes;
      total.cached += cachedBytes;
      total.size += sizeBytes;
    }
    return total;
  };
  const [before, now] = [sums(of.before), sums(of.now)];
  return {
    mountPoint,
    reference,
    missesPerSecond: of.rate(misses(now), misses(before)),
    hitRatio: hitRatio(now, before),
    readBytesPerSecond: of.rate(now.bytes, before.bytes),
    cachedBytes: now.cached,
    sizeBytes: now.size,
  };
}

/** Lines for a terminal of this size, or all of them. None is longer than `columns`. */
export function topText(top: Top, style: Style, fit?: { columns: number; rows: number }): string {
  const { fetchedBytesPerSecond: fetched } = top;
  const all = fetched.demand + fetched.ahead + fetched.prefetch;
  const head = [
    `misses ${number(top.missesPerSecond)}/s  hits ${percent(top.hitRatio)}  failed ${number(top.failedPerSecond)}/s` +
      `  waiting ${top.waitingReads}  fills in flight ${top.fillsInFlight}`,
    `fetched ${size(all)}/s  demand ${size(fetched.demand)}/s  ahead ${size(fetched.ahead)}/s` +
      `  prefetch ${size(fetched.prefetch)}/s  wasted ${size(top.wastedBytesPerSecond)}/s`,
    "",
  ];
  const mounts = top.mounts.map((mount) => [
    number(mount.missesPerSecond),
    percent(mount.hitRatio),
    `${size(mount.readBytesPerSecond)}/s`,
    share(mount.cachedBytes, mount.sizeBytes),
    mount.mountPoint,
    mount.reference,
  ]);
  const slow = [
    ...top.waiting.map((each) => ({ ...each, state: "waits" })),
    ...top.slow.map((each) => ({ ...each, state: each.code ?? "" })),
  ].map((each) => [milliseconds(each.waitedMs), size(each.length), each.state, placeOf(each)]);
  const lines = [
    ...head,
    ...tableLines(["MISSES/S", "HITS", "READ", "CACHED", "MOUNT POINT", "REFERENCE"], mounts),
    "",
    ...tableLines(["WAITED", "SIZE", "", "SLOWEST READS"], slow),
  ];
  const slowAt = head.length + 1 + mounts.length + 1;
  const headings = new Set([lines[0], lines[1], lines[head.length], lines[slowAt]]);
  const paint = (line: string): string => {
    const shown = fit === undefined ? line : line.slice(0, fit.columns);
    return headings.has(line) && line !== "" ? style.heading(shown) : shown;
  };
  if (fit === undefined) return lines.map((line) => `${paint(line)}\n`).join("");
  return shortened(lines, slowAt, fit.rows).map(paint).join("\n");
}

/** What is said where nothing can be drawn anew. */
export function summaryLine(top: Top): string {
  const { fetchedBytesPerSecond: fetched, slow } = top;
  const all = fetched.demand + fetched.ahead + fetched.prefetch;
  const [worst] = slow;
  const where =
    worst === undefined ? "" : `  slowest ${milliseconds(worst.waitedMs)} ${placeOf(worst)}`;
  return printable(
    `misses ${number(top.missesPerSecond)}/s  hits ${percent(top.hitRatio)}  failed ${number(top.failedPerSecond)}/s` +
      `  waiting ${top.waitingReads}  fetched ${size(all)}/s${where}`,
  ).concat("\n");
}

function placeOf({ mountPoint, file, fsid, offset }: SlowLine): string {
  return file === null
    ? `${mountPoint ?? ""} ${fsid} at ${offset}`.trim()
    : `${mountPoint ?? ""}${file}`;
}

/** Both tables get their share of few rows. */
function shortened(lines: readonly string[], slowAt: number, rows: number): string[] {
  const below = lines.length - slowAt;
  const above = Math.max(rows - below, Math.min(slowAt, Math.ceil(rows / 2)));
  return [...lines.slice(0, Math.min(above, slowAt)), ...lines.slice(slowAt)].slice(0, rows);
}

const PLAIN = styleOf({ write: () => undefined });

function tableLines(headings: string[], rows: string[][]): string[] {
  return table(headings, rows, PLAIN).trimEnd().split("\n");
}

function number(value: number): string {
  return value === 0 || value >= 10 ? String(Math.round(value)) : value.toFixed(1);
}

function percent(ratio: number | null): string {
  return ratio === null ? "-" : `${Math.floor(ratio * 100)}%`;
}

function milliseconds(ms: number): string {
  return ms >= 10_000
    ? `${(ms / 1000).toFixed(0)} s`
    : `${ms >= 10 ? ms.toFixed(0) : ms.toFixed(1)} ms`;
}
