// SPDX-License-Identifier: Apache-2.0
// Whether proxies work. One that can be pinged is pinged at its first use and then at its
// interval, for as long as it is used; between two pings it counts as it did at the last one
// (nydusd does the same: check_interval, check_pause_elapsed). One that cannot be pinged is
// always tried.

import { LRUCache } from "lru-cache";
import type { Clock } from "../../platform/clock.ts";
import type { ProxyProfile } from "./access.ts";

const PROXIES_MAX = 64;
/** A proxy that nobody used for so long is not pinged any more. */
const UNUSED_MS = 300_000;
/** Whatever a profile asks for. */
const INTERVAL_MIN_MS = 100;

interface Health {
  isGood: boolean;
  lastUsedMs: number;
  /** Undefined while it is not pinged. */
  cancelPing: (() => void) | undefined;
}

export interface ProxiesParts {
  readonly clock: Clock;
  /** Ends the pings. */
  readonly closing: AbortSignal;
  /** True when it answers that all is well; never rejects. */
  readonly ping: (url: URL) => Promise<boolean>;
  readonly onChange: (proxyHost: string, isGood: boolean) => void;
}

export class Proxies {
  readonly #parts: ProxiesParts;
  readonly #health = new LRUCache<string, Health>({
    max: PROXIES_MAX,
    dispose: (health) => {
      health.cancelPing?.();
    },
  });

  constructor(parts: ProxiesParts) {
    this.#parts = parts;
    parts.closing.addEventListener("abort", () => this.#health.clear(), { once: true });
  }

  /** Called for each request that would go through it. */
  isGood(proxy: ProxyProfile): boolean {
    const { clock, closing } = this.#parts;
    if (proxy.pingUrl === undefined || closing.aborted) return true;
    const key = `${proxy.url} ${proxy.pingUrl} ${proxy.checkIntervalMs}`;
    const nowMs = clock.nowMs();
    const known = this.#health.get(key);
    const health = known ?? { isGood: true, lastUsedMs: nowMs, cancelPing: undefined };
    if (known === undefined) this.#health.set(key, health);
    health.lastUsedMs = nowMs;
    if (health.cancelPing === undefined) this.#pingSoon(proxy, new URL(proxy.pingUrl), health, 0);
    return health.isGood;
  }

  #pingSoon(proxy: ProxyProfile, url: URL, health: Health, delayMs: number): void {
    const { clock, ping, onChange } = this.#parts;
    let ended = false;
    const cancelTimer = clock.after(delayMs, () => {
      if (clock.nowMs() - health.lastUsedMs > UNUSED_MS) {
        health.cancelPing = undefined;
        return;
      }
      void ping(url).then((isGood) => {
        if (ended) return;
        if (isGood !== health.isGood) onChange(new URL(proxy.url).host, isGood);
        health.isGood = isGood;
        this.#pingSoon(proxy, url, health, Math.max(proxy.checkIntervalMs, INTERVAL_MIN_MS));
      });
    });
    health.cancelPing = () => {
      ended = true;
      cancelTimer();
    };
  }
}
