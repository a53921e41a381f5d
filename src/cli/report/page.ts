// SPDX-License-Identifier: Apache-2.0
// A report as one page of HTML that needs nothing else: no scripts, no fonts, no network.

import { share, size } from "../output.ts";
import { KIND_NAMES, streamMap, waterfall } from "./charts.ts";
import { escaped, milliseconds, timeColour } from "./html.ts";
import { KINDS, type Report } from "./model.ts";
import { STYLE } from "./style.ts";

const ROWS_MAX = 25;
const MAPS_MAX = 64;
/** Whoever opens it is safe, whatever is in it: nothing is run, and nothing fetched. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'";

export function reportPage(report: Report): string {
  const { reference } = report.history;
  const title = `How ${reference} was read`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>${escaped(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
${header(report)}
${tiles(report)}
${mapSection(report)}
${waterfallSection(report)}
${lossSection(report)}
${missSection(report)}
${sizeSection(report)}
</main>
</body>
</html>
`;
}

function header({ history }: Report): string {
  const { reference, manifestDigest, format, startedAt, ms } = history;
  const kind = format === "rafs" ? "Nydus (RAFS v6)" : "EROFS";
  return `<header><h1>${escaped(reference)}</h1>
<p class="sub">${kind}, from ${escaped(startedAt)} on, for ${milliseconds(ms)}<br><code>${escaped(manifestDigest)}</code></p></header>`;
}

function tiles({ history, waits, losses, lostMs, laterWaits }: Report): string {
  const sum = (of: (stream: (typeof history.streams)[number]) => number): number =>
    history.streams.reduce((total, stream) => total + of(stream), 0);
  const sizeBytes = sum((stream) => stream.sizeBytes);
  const cachedBytes = sum((stream) => stream.cachedBytes);
  const longest = waits.reduce((most, { ms }) => Math.max(most, ms), 0);
  const later = laterWaits === 0 ? "" : `, ${laterWaits} later ones not kept`;
  const all: readonly [string, string, string][] = [
    ["Image", size(sizeBytes), `${history.streams.length} streams`],
    ["Cached", size(cachedBytes), share(cachedBytes, sizeBytes)],
    ["Fetched", size(sum((stream) => stream.fetchedBytes)), "as stored"],
    ["Waits", String(waits.length), `in ${losses.length} files${later}`],
    ["Time lost", milliseconds(lostMs), "while somebody waited"],
    ["Longest wait", milliseconds(longest), "of one read"],
  ];
  const boxes = all.map(
    ([name, value, more]) =>
      `<div class="tile"><dt>${name}</dt><dd>${value}</dd><dd class="sub">${more}</dd></div>`,
  );
  return `<dl class="tiles">${boxes.join("")}</dl>`;
}

function mapSection({ history, maps, fills }: Report): string {
  const lastMs = fills.reduce((last, { untilMs }) => Math.max(last, untilMs), 1);
  const shown = history.streams
    .map((stream, n) => ({ stream, cells: maps[n] ?? [], n }))
    .filter(({ stream }) => stream.open)
    .slice(0, MAPS_MAX);
  const figures = shown.map(({ stream, cells, n }) => {
    const { role, digest, sizeBytes, cachedBytes } = stream;
    const name = role === "bootstrap" ? "bootstrap" : `device ${n}`;
    return `<figure><figcaption><b>${name}</b> ${size(sizeBytes)}, ${share(cachedBytes, sizeBytes)} cached <code>${escaped(digest)}</code></figcaption>${streamMap(cells, { sizeBytes, lastMs })}</figure>`;
  });
  const left = history.streams.length - shown.length;
  const more = left === 0 ? "" : `<p class="sub">${left} more streams are not shown here.</p>`;
  return `<section><h2>What was cached when</h2>${legend(lastMs)}${figures.join("")}${more}</section>`;
}

function legend(lastMs: number): string {
  const stops = [0, 0.25, 0.5, 0.75, 1].map((at) => timeColour(at)).join(",");
  const kinds = KINDS.map(
    (kind) => `<span><i class="swatch ${kind}"></i>${KIND_NAMES[kind]}</span>`,
  );
  return `<p class="legend"><span>0 s<i class="ramp" style="background:linear-gradient(90deg,${stops})"></i>${milliseconds(lastMs)}</span><span><i class="swatch held"></i>before, or later than was kept</span><span><i class="swatch none"></i>not cached</span><span class="kinds">below each part: ${kinds.join("")}</span></p>`;
}

function waterfallSection(report: Report): string {
  if (report.waits.length === 0) {
    return `<section><h2>The first waits</h2><p class="sub">No reader has waited.</p></section>`;
  }
  return `<section><h2>The first waits</h2><p class="sub">Each row is one read that found nothing cached, with the file that most of it is of.</p><div class="wide">${waterfall(report)}</div></section>`;
}

function lossSection({ losses }: Report): string {
  const most = losses[0]?.ms ?? 1;
  const rows = losses.slice(0, ROWS_MAX).map((loss) => {
    const width = ((loss.ms / most) * 100).toFixed(1);
    return `<tr><td class="path">${escaped(loss.path)}</td><td class="bar"><i style="width:${width}%"></i></td><td>${milliseconds(loss.ms)}</td><td>${loss.waits}</td><td>${milliseconds(loss.longestMs)}</td><td>${size(loss.bytes)}</td></tr>`;
  });
  const heads = ["File", "", "Waited", "Waits", "Longest", "Bytes"];
  return tableSection("Time lost by file", heads, rows, losses.length);
}

function missSection({ waits }: Report): string {
  const longest = waits.toSorted((a, b) => b.ms - a.ms);
  const rows = longest
    .slice(0, ROWS_MAX)
    .map(
      ({ path, ms, sinceMs, stream, offset, length }) =>
        `<tr><td class="path">${escaped(path)}</td><td>${milliseconds(ms)}</td><td>${milliseconds(sinceMs)}</td><td>${stream}</td><td>${offset}</td><td>${size(length)}</td></tr>`,
    );
  const heads = ["File", "Waited", "After", "Stream", "Offset", "Length"];
  return tableSection("The longest waits", heads, rows, waits.length);
}

function sizeSection({ history }: Report): string {
  const rows = history.streams.map(
    ({ role, digest, sizeBytes, cachedBytes, fetchedBytes, waits, fills }, n) =>
      `<tr><td class="path"><b>${n} ${role}</b> <code>${escaped(digest)}</code></td><td>${size(sizeBytes)}</td><td>${share(cachedBytes, sizeBytes)}</td><td>${size(fetchedBytes)}</td><td>${fills.length}</td><td>${waits.length}</td></tr>`,
  );
  const heads = ["Stream", "Size", "Cached", "Fetched", "Fetches", "Waits"];
  return tableSection("Sizes", heads, rows, rows.length);
}

function tableSection(
  title: string,
  heads: readonly string[],
  rows: readonly string[],
  all: number,
): string {
  const head = heads.map((text) => `<th>${text}</th>`).join("");
  const left = all - rows.length;
  const more = left > 0 ? `<p class="sub">and ${left} more</p>` : "";
  const body = rows.length === 0 ? "" : rows.join("\n");
  return `<section><h2>${title}</h2><div class="wide"><table><thead><tr>${head}</tr></thead><tbody>${body}</tbody></table></div>${more}</section>`;
}
