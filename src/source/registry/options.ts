// SPDX-License-Identifier: Apache-2.0
// What the registry client can be told, with its defaults, and what it tells others: counters
// and a log. All times are in milliseconds.

import type { Clock, Random } from "../../platform/clock.ts";
import type { AccessBook, ProxyProfile } from "./access.ts";
import type { BreakerState } from "./breaker.ts";
import type { CredentialSource } from "./credentials/credential-source.ts";
import type { HedgeBudget } from "./hedge-budget.ts";
import type { Via } from "./latency-history.ts";
import type { Environment } from "./system-roots.ts";
import type { Upstream } from "./upstream.ts";

export interface RegistryOptions {
  /** True for hosts (as written, with port) that are spoken to without TLS. */
  readonly plainHttp: (host: string) => boolean;
  /** Connections to one host at most, 1 or more; further requests wait. */
  readonly connections: number;
  /** Tries of one fetch in all, 1 or more. */
  readonly attemptsMax: number;
  readonly backoffBaseMs: number;
  readonly backoffCapMs: number;
  /** For TCP and TLS together. Kept by the HTTP client on the system's clock. */
  readonly connectTimeoutMs: number;
  /** From a request being written to its response's headers. */
  readonly headersTimeoutMs: number;
  /** Between two pieces of a body. */
  readonly stallTimeoutMs: number;
  /** Of a hundred demand requests, how many may be made twice because they are late. */
  readonly hedgePercent: number;
  /** PEM certificates to trust beside the system's. */
  readonly tlsCa?: string | undefined;
}

export const REGISTRY_DEFAULTS: RegistryOptions = {
  plainHttp: isLoopback,
  connections: 8,
  attemptsMax: 4,
  backoffBaseMs: 100,
  backoffCapMs: 3_000,
  connectTimeoutMs: 10_000,
  headersTimeoutMs: 30_000,
  stallTimeoutMs: 30_000,
  hedgePercent: 3,
};

/** Called in order of events; must not throw. Hosts as in a URL, with the port. Times in ms. */
export interface RegistryObserver {
  request?(host: string, via: Via): void;
  /** `count` body bytes were received. */
  bytes?(host: string, count: number, via: Via): void;
  failure?(host: string, code: string): void;
  /** Of a range: from the request to its first byte, and from there to its last. */
  firstByte?(host: string, via: Via, elapsedMs: number): void;
  transfer?(host: string, via: Via, elapsedMs: number): void;
  /** A late demand request is made once more, and that one was faster. */
  hedge?(host: string, event: "started" | "won"): void;
  /** Both peers and the host are asked, and who was first. */
  peerRace?(host: string, event: "started" | "won_by_peers" | "won_by_registry"): void;
  peerFailure?(proxyHost: string, cause: string): void;
  breaker?(host: string, state: BreakerState): void;
}

/** Peers for all registries, or for the hosts that are named. */
export interface PeerOptions {
  readonly proxy: ProxyProfile;
  /** Hosts as references write them; empty: all. */
  readonly hosts: readonly string[];
}

/** The part of a logger that is used here. */
export interface RegistryLog {
  trace?(fields: object, message: string): void;
  debug(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface RegistryParts {
  readonly clock: Clock;
  readonly random: Random;
  readonly options?: Partial<RegistryOptions>;
  /** How to reach single repositories; looked into for every request. */
  readonly access?: AccessBook;
  /** Asked for credentials of all other repositories. */
  readonly credentials?: CredentialSource;
  /** Proxies and certificates are looked for in it. */
  readonly environment?: Environment;
  /**
   * Where to get what the registry of a host has, in order; `plain` is that registry with nothing
   * configured. Asked for every round of tries; never rejects.
   */
  readonly upstreams?: (host: string, plain: Upstream) => Promise<readonly Upstream[]>;
  /** A peer-to-peer proxy for repositories whose profile names none. */
  readonly peers?: PeerOptions | undefined;
  /** Default: one of its own, with `options.hedgePercent`. */
  readonly hedges?: HedgeBudget | undefined;
  readonly observe?: RegistryObserver;
  readonly log?: RegistryLog;
}

/** localhost, 127.0.0.0/8 and [::1], with or without a port. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/:[0-9]+$/, "");
  return (
    name === "localhost" ||
    name === "[::1]" ||
    /^127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$/.test(name)
  );
}
