// SPDX-License-Identifier: Apache-2.0
// Text as HTML: whatever comes from an image or a registry goes through here.

import { printable } from "../output.ts";

/** Safe between tags and in quoted attributes. */
export function escaped(text: string): string {
  return printable(text)
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}

/** The end of a long path says more than its beginning. */
export function shortened(text: string, lengthMax: number): string {
  return text.length <= lengthMax ? text : `…${text.slice(1 - lengthMax)}`;
}

export function milliseconds(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

const RAMP = [
  [37, 99, 235],
  [14, 165, 233],
  [16, 185, 129],
  [234, 179, 8],
  [249, 115, 22],
] as const;

/** From early (0) to late (1). */
export function timeColour(share: number): string {
  const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = RAMP[Math.floor(at)] ?? RAMP[0];
  const high = RAMP[Math.ceil(at)] ?? low;
  const mixed = low.map((value, n) => Math.round(value + ((high[n] ?? value) - value) * (at % 1)));
  return `rgb(${mixed.join(",")})`;
}
