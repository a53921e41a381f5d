// SPDX-License-Identifier: Apache-2.0
// Durations as Go programs read them ("1m30s", "1.5s", "500ms"), which is how containerd's users
// write them.

const PART = /([0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)/g;
const WHOLE = new RegExp(`^(?:${PART.source}){1,8}$`);

const UNIT_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
};

/** In milliseconds. Undefined for anything else; there are no negative ones. */
export function parseDuration(text: string): number | undefined {
  if (text === "0") return 0;
  if (!WHOLE.test(text)) return undefined;
  let durationMs = 0;
  for (const [, count, unit] of text.matchAll(PART)) {
    durationMs += Number(count) * (UNIT_MS[unit ?? ""] ?? 0);
  }
  return Number.isFinite(durationMs) ? durationMs : undefined;
}
