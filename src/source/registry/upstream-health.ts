// SPDX-License-Identifier: Apache-2.0
// What is known of each upstream's host: its circuit breaker, and how long it asked us to wait
// (Retry-After, which binds all requests to it). An open breaker spares readers a host that does
// not work: others are asked instead, and a ping in the background finds out when it is back.
// Where there is no other, a read that somebody waits for is itself the probe, one at a time: that
// it works, or is not there at all, is news for all who wait. That it has one blob to answer 500
// for is not: whoever wants another asks himself.

import { LRUCache } from "lru-cache";
import { type Code, DaemonError } from "../../errors.ts";
import { type Clock, cancelledBy, nap, sleep } from "../../platform/clock.ts";
import type { Access } from "./access.ts";
import { Breaker, type BreakerState } from "./breaker.ts";
import type { RegistryLog } from "./options.ts";
import type { Upstream } from "./upstream.ts";

const HOSTS_MAX = 256;
/** Between two probes that readers wait for. */
const PROBE_SPACING_MS = 500;
/** Whatever a host asks for: it is looked at again after this. */
const WAIT_MAX_MS = 300_000;
/** A host that nobody used for so long is not pinged any more. */
const UNUSED_MS = 300_000;

/** `ready`: ask it. `trial`: one request may find out. `resting`: better ask another. */
export type Standing = "ready" | "trial" | "resting";

/** How a request ended, as far as its host is concerned. */
export type Outcome = "served" | "failed" | "unknown";

export interface UpstreamHealthParts {
  readonly clock: Clock;
  readonly log: RegistryLog | undefined;
  /** Ends the pings. */
  readonly closing: AbortSignal;
  /** Told of every change. */
  readonly onBreaker: (host: string, state: BreakerState) => void;
  /** True when it answers at all; never rejects. */
  readonly ping: (upstream: Upstream, access: Access | undefined) => Promise<boolean>;
}

interface Host {
  readonly breaker: Breaker;
  waitUntilMs: number;
  lastUsedMs: number;
  lastProbeMs: number;
  access: () => Access | undefined;
  /** Settles when the probe that is under way has ended; never rejects. */
  probe: Promise<DaemonError | undefined> | undefined;
  cancelPing: (() => void) | undefined;
}

export interface Entry {
  readonly signal: AbortSignal;
  readonly deadlineMs: number;
  /** False: nobody waits for it, so that it is rather refused than kept waiting. */
  readonly isAwaited: boolean;
  /** Peers may have the bytes even when the upstream is gone: the breaker is not for this request. */
  readonly hasPeers: boolean;
  /** How its pings reach it. */
  readonly access: () => Access | undefined;
}

export class UpstreamHealth {
  readonly #parts: UpstreamHealthParts;
  /** Those who would ask a host again in a while. */
  readonly #pauses = new Map<() => void, readonly string[]>();
  readonly #hosts = new LRUCache<string, Host>({
    max: HOSTS_MAX,
    dispose: (host) => {
      host.cancelPing?.();
    },
  });

  constructor(parts: UpstreamHealthParts) {
    this.#parts = parts;
    parts.closing.addEventListener("abort", () => this.#hosts.clear(), { once: true });
  }

  standing(upstream: Upstream): Standing {
    const host = this.#hosts.get(keyOf(upstream));
    if (host === undefined) return "ready";
    if (host.waitUntilMs > this.#parts.clock.nowMs()) return "resting";
    if (host.breaker.state === "closed") return "ready";
    return host.breaker.state === "half-open" && host.probe === undefined ? "trial" : "resting";
  }

  /** The host asks all of us to wait. */
  waits(upstream: Upstream, durationMs: number): void {
    const host = this.#host(upstream);
    const untilMs = this.#parts.clock.nowMs() + Math.min(durationMs, WAIT_MAX_MS);
    host.waitUntilMs = Math.max(host.waitUntilMs, untilMs);
  }

  /**
   * Resolves after `delayMs`, or as soon as one of these upstreams that was given up answers again.
   * Rejects when the signal aborts.
   */
  async pause(upstreams: readonly Upstream[], delayMs: number, signal: AbortSignal): Promise<void> {
    const { over, wake } = nap(this.#parts.clock, delayMs, signal);
    this.#pauses.set(wake, upstreams.map(keyOf));
    try {
      await over;
    } finally {
      this.#pauses.delete(wake);
    }
  }

  /**
   * Waits until a request may be sent; whoever sends it calls what this resolves to once, with how
   * it went. Rejects when the host asked for longer than there is time, with what a probe that was
   * waited for met, or at once when the breaker is open and nobody waits.
   */
  async enter(
    upstream: Upstream,
    entry: Entry,
  ): Promise<(outcome: Outcome, error?: DaemonError) => void> {
    if (entry.hasPeers) return () => undefined;
    const host = this.#host(upstream);
    host.lastUsedMs = this.#parts.clock.nowMs();
    host.access = entry.access;
    // Without a wait nothing may come between this and being the probe.
    if (host.waitUntilMs > host.lastUsedMs) await this.#sitOut(upstream, host, entry);
    if (host.breaker.state === "closed") {
      return (outcome) => this.#note(upstream, host, outcome, false);
    }
    if (host.breaker.state === "open" && !entry.isAwaited) throw this.#restFault(upstream, host);
    if (host.probe !== undefined) {
      const failure = await settled(host.probe, entry.signal);
      if (failure !== undefined && HOST_FAILS.has(failure.fault.code)) throw failure;
      return await this.enter(upstream, entry);
    }
    return await this.#becomeProbe(upstream, host, entry);
  }

  #host(upstream: Upstream): Host {
    const key = keyOf(upstream);
    const known = this.#hosts.get(key);
    if (known !== undefined) return known;
    const host: Host = {
      breaker: new Breaker(),
      waitUntilMs: 0,
      lastUsedMs: this.#parts.clock.nowMs(),
      lastProbeMs: Number.NEGATIVE_INFINITY,
      access: () => undefined,
      probe: undefined,
      cancelPing: undefined,
    };
    this.#hosts.set(key, host);
    return host;
  }

  async #sitOut(upstream: Upstream, host: Host, { signal, deadlineMs }: Entry): Promise<void> {
    const { clock } = this.#parts;
    for (;;) {
      const waitMs = host.waitUntilMs - clock.nowMs();
      if (waitMs <= 0) return;
      if (host.waitUntilMs >= deadlineMs) {
        const retryAfterMs = waitMs;
        throw new DaemonError({ code: "registry_throttled", host: upstream.name, retryAfterMs });
      }
      await sleep(clock, waitMs, signal);
    }
  }

  async #becomeProbe(upstream: Upstream, host: Host, entry: Entry) {
    const { clock } = this.#parts;
    let end: (failure: DaemonError | undefined) => void = () => undefined;
    host.probe = new Promise((resolve) => {
      end = resolve;
    });
    const leave = (outcome: Outcome, error?: DaemonError): void => {
      host.probe = undefined;
      host.lastProbeMs = clock.nowMs();
      this.#note(upstream, host, outcome, true);
      end(outcome === "failed" ? error : undefined);
    };
    const pauseMs = host.lastProbeMs + PROBE_SPACING_MS - clock.nowMs();
    if (pauseMs > 0) {
      try {
        await sleep(clock, pauseMs, entry.signal);
      } catch (error) {
        leave("unknown");
        throw error;
      }
    }
    return leave;
  }

  #note(upstream: Upstream, host: Host, outcome: Outcome, isProbe: boolean): void {
    const { clock, log, closing } = this.#parts;
    const { breaker } = host;
    const before = breaker.state;
    if (outcome === "unknown") return;
    if (outcome === "served") breaker.succeeded(clock.nowMs());
    else breaker.failed(clock.nowMs(), isProbe);
    if (breaker.state !== before) this.#parts.onBreaker(upstream.name, breaker.state);
    const fields = { host: upstream.name, failures: breaker.failures };
    if (before === "closed" && breaker.state === "open") {
      log?.warn(fields, "the host fails again and again; it is asked no more until it works");
    }
    if (breaker.state === "closed") {
      host.cancelPing?.();
      host.cancelPing = undefined;
      if (before !== "closed") log?.warn(fields, "the host works again");
      if (before !== "closed") this.#wake(upstream);
    } else if (breaker.state === "open" && host.cancelPing === undefined && !closing.aborted) {
      this.#pingLater(upstream, host);
    }
  }

  #pingLater(upstream: Upstream, host: Host): void {
    const { clock, ping } = this.#parts;
    let ended = false;
    const cancelTimer = clock.after(host.breaker.restMs(clock.nowMs()), () => {
      if (clock.nowMs() - host.lastUsedMs > UNUSED_MS) {
        // Whoever uses it next finds out.
        host.cancelPing = undefined;
        this.#answered(upstream, host);
        return;
      }
      void ping(upstream, host.access()).then((isAlive) => {
        if (ended) return;
        host.cancelPing = undefined;
        if (isAlive) this.#answered(upstream, host);
        else this.#note(upstream, host, "failed", true);
      });
    });
    host.cancelPing = () => {
      ended = true;
      cancelTimer();
    };
  }

  #answered(upstream: Upstream, { breaker }: Host): void {
    breaker.answered();
    this.#parts.onBreaker(upstream.name, breaker.state);
    this.#wake(upstream);
  }

  #wake(upstream: Upstream): void {
    const key = keyOf(upstream);
    for (const [wake, keys] of this.#pauses) if (keys.includes(key)) wake();
  }

  #restFault(upstream: Upstream, { breaker }: Host): DaemonError {
    const restS = Math.ceil(breaker.restMs(this.#parts.clock.nowMs()) / 1000);
    const detail = `it failed ${breaker.failures} times in a row; looked at again in ${restS} s`;
    return new DaemonError({ code: "registry_unreachable", host: upstream.name, detail });
  }
}

const HOST_FAILS: ReadonlySet<Code> = new Set(["registry_unreachable", "registry_timeout"]);
/** It answers; that it has no good answer is another matter. */
const HOST_WORKS: ReadonlySet<Code> = new Set([
  "registry_unauthorized",
  "manifest_not_found",
  "blob_not_found",
  "blob_truncated",
]);

/** What a failed request says about its host. */
export function outcomeOf({ fault }: DaemonError): Outcome {
  if (fault.code === "registry_failed") return fault.status >= 500 ? "failed" : "served";
  if (HOST_FAILS.has(fault.code)) return "failed";
  return HOST_WORKS.has(fault.code) ? "served" : "unknown";
}

function keyOf({ baseUrl }: Upstream): string {
  return baseUrl.origin;
}

/** `work`, unless the signal comes first. */
function settled<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(cancelledBy(signal));
    if (signal.aborted) {
      aborted();
      return;
    }
    signal.addEventListener("abort", aborted, { once: true });
    void work.then((value) => {
      signal.removeEventListener("abort", aborted);
      resolve(value);
    });
  });
}
