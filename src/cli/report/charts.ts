// SPDX-License-Identifier: Apache-2.0
// The pictures of a report, as SVG: what of a stream was cached when, and what happened in the
// first seconds. Their texts are text; what they mean in numbers is told when one is pointed at.

import { size } from "../output.ts";
import { escaped, milliseconds, shortened, timeColour } from "./html.ts";
import { type Cell, KINDS, type Kind, type Report, type Wait } from "./model.ts";

const WIDTH = 1040;
const COLUMNS = 128;
const CELL_WIDTH = WIDTH / COLUMNS;
const CELL_HEIGHT = 12;
const KIND_HEIGHT = 3;
const ROW_HEIGHT = CELL_HEIGHT + KIND_HEIGHT + 3;

const LABEL_WIDTH = 300;
const BAR_HEIGHT = 16;
const WAITS_MAX = 60;
const FILLS_MAX = 4000;
const TICKS = 6;
const LABEL_LENGTH = 42;

export const KIND_NAMES: Readonly<Record<Kind, string>> = {
  demand: "a reader waited",
  ahead: "read ahead",
  prefetch: "prefetch",
};

/** A stream from its start to its end, row by row; `lastMs` is the latest colour. */
export function streamMap(
  cells: readonly Cell[],
  of: { readonly sizeBytes: number; readonly lastMs: number },
): string {
  const rows = Math.ceil(cells.length / COLUMNS);
  const bytes = Math.ceil(of.sizeBytes / Math.max(1, cells.length));
  const parts = cells.map((cell, n) => {
    const x = (n % COLUMNS) * CELL_WIDTH;
    const y = Math.floor(n / COLUMNS) * ROW_HEIGHT;
    return cellOf(cell, { x, y, where: size(n * bytes), lastMs: of.lastMs });
  });
  const height = rows * ROW_HEIGHT;
  return `<svg class="map" viewBox="0 0 ${WIDTH} ${height}" role="img">${parts.join("")}</svg>`;
}

function cellOf(
  { share, atMs, kind }: Cell,
  at: { x: number; y: number; where: string; lastMs: number },
): string {
  const { x, y, where, lastMs } = at;
  const box = (top: number, height: number) =>
    `x="${x.toFixed(2)}" y="${top}" width="${(CELL_WIDTH - 1).toFixed(2)}" height="${height}"`;
  if (share === 0) return `<rect class="none" ${box(y, CELL_HEIGHT)}/>`;
  const when = atMs === undefined ? "before, or later" : `after ${milliseconds(atMs)}`;
  const how = kind === undefined ? "" : `, ${KIND_NAMES[kind]}`;
  const title = `<title>at ${where}: ${Math.round(share * 100)}% cached, ${when}${how}</title>`;
  const opacity = (0.35 + 0.65 * share).toFixed(2);
  const fill =
    atMs === undefined ? 'class="held"' : `fill="${timeColour(atMs / Math.max(1, lastMs))}"`;
  const cell = `<rect ${fill} opacity="${opacity}" ${box(y, CELL_HEIGHT)}>${title}</rect>`;
  const below = y + CELL_HEIGHT + 1;
  return kind === undefined
    ? cell
    : `${cell}<rect class="${kind}" ${box(below, KIND_HEIGHT)}>${title}</rect>`;
}

/** The first readers that waited, and what was in the air meanwhile. */
export function waterfall({ waits, fills }: Report): string {
  const shown = waits.slice(0, WAITS_MAX);
  const lastMs = shown.reduce((end, { sinceMs, ms }) => Math.max(end, sinceMs + ms), 1);
  const x = (ms: number): number =>
    LABEL_WIDTH + (Math.min(ms, lastMs) / lastMs) * (WIDTH - LABEL_WIDTH);
  const lanes = KINDS.map((kind, n) => {
    const own = fills.filter((fill) => fill.kind === kind && fill.sinceMs <= lastMs);
    const y = 24 + n * BAR_HEIGHT;
    const bars = own.slice(0, FILLS_MAX).map(({ sinceMs, untilMs }) => {
      const title = `<title>${KIND_NAMES[kind]}: ${milliseconds(untilMs - sinceMs)} after ${milliseconds(sinceMs)}</title>`;
      const width = Math.max(1, x(untilMs) - x(sinceMs)).toFixed(1);
      return `<rect class="${kind} fetch" x="${x(sinceMs).toFixed(1)}" y="${y + 3}" width="${width}" height="${BAR_HEIGHT - 6}">${title}</rect>`;
    });
    const label = `<text class="label" x="0" y="${y + 12}">fetches: ${KIND_NAMES[kind]} (${own.length})</text>`;
    return label + bars.join("");
  });
  const top = 24 + (KINDS.length + 0.5) * BAR_HEIGHT;
  const rows = shown.map((wait, n) => waitRow(wait, top + n * BAR_HEIGHT, x));
  const height = top + shown.length * BAR_HEIGHT + 4;
  return `<svg class="fall" viewBox="0 0 ${WIDTH} ${height}" role="img">${axis(lastMs, height, x)}${lanes.join("")}${rows.join("")}</svg>`;
}

function waitRow(wait: Wait, y: number, x: (ms: number) => number): string {
  const { sinceMs, ms, path, length } = wait;
  const width = Math.max(1.5, x(sinceMs + ms) - x(sinceMs));
  const title = `<title>${escaped(path)}: ${milliseconds(ms)} for ${size(length)}, after ${milliseconds(sinceMs)}</title>`;
  const label = escaped(shortened(path, LABEL_LENGTH));
  const isLate = x(sinceMs) + width > WIDTH - 60;
  const at = isLate ? x(sinceMs) - 4 : x(sinceMs) + width + 4;
  const anchor = isLate ? ' text-anchor="end"' : "";
  return `<text class="label" x="0" y="${y + 12}">${label}${title}</text><rect class="wait" x="${x(sinceMs).toFixed(1)}" y="${y + 3}" width="${width.toFixed(1)}" height="${BAR_HEIGHT - 6}" rx="2">${title}</rect><text class="value" x="${at.toFixed(1)}" y="${y + 12}"${anchor}>${milliseconds(ms)}</text>`;
}

function axis(lastMs: number, height: number, x: (ms: number) => number): string {
  return Array.from({ length: TICKS + 1 }, (_, n) => {
    const ms = (lastMs * n) / TICKS;
    const at = x(ms).toFixed(1);
    const anchor = n === TICKS ? "end" : n === 0 ? "start" : "middle";
    return `<line class="tick" x1="${at}" x2="${at}" y1="18" y2="${height}"/><text class="value" x="${at}" y="12" text-anchor="${anchor}">${milliseconds(ms)}</text>`;
  }).join("");
}
