// SPDX-License-Identifier: Apache-2.0
// Where a registry last redirected to for a blob: later ranges go straight there, which spares
// them a round trip, until the URL expires or is refused. A signed URL opens the blob to whoever
// has it: it is kept here and printed nowhere.

import { LRUCache } from "lru-cache";
import type { Clock } from "../../platform/clock.ts";

const URLS_MAX = 4096;
/** Of a URL that does not say how long it is good. */
const LIFETIME_DEFAULT_MS = 60_000;
const LIFETIME_MAX_MS = 6 * 3_600_000;
/** A URL is not used in its last moments, or its last fifth when it is short-lived. */
const MARGIN_MS = 30_000;
/** What a server says to a URL it does not honour any more. */
const REFUSALS = new Set([400, 401, 403, 404, 410]);

interface Kept {
  readonly url: URL;
  readonly expiresMs: number;
}

export interface SignedURLsParts {
  readonly clock: Clock;
  /** Milliseconds since 1970. */
  readonly wallClockMs: () => number;
}

export class SignedURLs {
  readonly #parts: SignedURLsParts;
  readonly #urls = new LRUCache<string, Kept>({ max: URLS_MAX });

  constructor(parts: SignedURLsParts) {
    this.#parts = parts;
  }

  get(key: string): URL | undefined {
    const kept = this.#urls.get(key);
    if (kept === undefined) return undefined;
    if (kept.expiresMs > this.#parts.clock.nowMs()) return kept.url;
    this.#urls.delete(key);
    return undefined;
  }

  /** `serverDate`: of the answer that led there, so that clocks need not agree. */
  keep(key: string, url: URL, serverDate: string | undefined): void {
    const { clock, wallClockMs } = this.#parts;
    const said = Date.parse(serverDate ?? "");
    const wallMs = Number.isNaN(said) ? wallClockMs() : said;
    const expiresMs = parseExpiry(url);
    const leftMs = expiresMs === undefined ? LIFETIME_DEFAULT_MS : expiresMs - wallMs;
    const lifetimeMs = Math.min(leftMs, LIFETIME_MAX_MS);
    const usableMs = Math.max(lifetimeMs - MARGIN_MS, lifetimeMs * 0.8);
    if (usableMs <= 0) return;
    this.#urls.set(key, { url, expiresMs: clock.nowMs() + Math.min(usableMs, lifetimeMs) });
  }

  forget(key: string): void {
    this.#urls.delete(key);
  }
}

/** True when an answer says that the URL is no good any more, and nothing of the blob. */
export function refusesURL(status: number): boolean {
  return REFUSALS.has(status) || (status >= 300 && status < 400);
}

/**
 * When a URL expires by its own query, in milliseconds since 1970: Amazon's and Google's signatures
 * (X-Amz-Date + X-Amz-Expires), Azure's (se=), CloudFront's and older ones (Expires=). Undefined
 * when it does not say, or says nonsense.
 */
export function parseExpiry(url: URL): number | undefined {
  const query = new Map([...url.searchParams].map(([name, value]) => [name.toLowerCase(), value]));
  for (const vendor of ["x-amz", "x-goog"]) {
    const date = basicDate(query.get(`${vendor}-date`) ?? "");
    const seconds = query.get(`${vendor}-expires`) ?? "";
    if (date !== undefined && /^[0-9]{1,9}$/.test(seconds)) return date + Number(seconds) * 1000;
  }
  const azure = query.get("se");
  if (azure !== undefined && /^[0-9]{4}-[0-9]{2}-[0-9]{2}/.test(azure)) {
    const time = Date.parse(azure);
    if (!Number.isNaN(time)) return time;
  }
  const seconds = query.get("expires") ?? "";
  return /^[0-9]{9,11}$/.test(seconds) ? Number(seconds) * 1000 : undefined;
}

/** `20261127T013000Z`. */
function basicDate(text: string): number | undefined {
  const match = /^([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z$/.exec(text);
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second] = match;
  const time = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(time) ? undefined : time;
}
