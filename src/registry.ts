// SPDX-License-Identifier: Apache-2.0
// The registry client as the configuration asks for it: for the daemon's rooms, and for commands
// that speak to a registry themselves. Loads the HTTP client.

import type { Config } from "./config/config.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { AccessBook } from "./source/registry/access.ts";
import { createCredentialSource } from "./source/registry/credentials/create-source.ts";
import type { CredentialEnvironment } from "./source/registry/credentials/environment.ts";
import type { PushedCredentials } from "./source/registry/credentials/pushed.ts";
import type { HedgeBudget } from "./source/registry/hedge-budget.ts";
import { HostsBook } from "./source/registry/hosts-book.ts";
import {
  type PeerOptions,
  type RegistryLog,
  type RegistryObserver,
  type RegistryParts,
  isLoopback,
} from "./source/registry/options.ts";
import type { RegistrySource } from "./source/registry/push.ts";
import { createRegistrySource } from "./source/registry/registry-source.ts";

export function createRegistry(parts: {
  readonly config: Config;
  readonly log: RegistryLog;
  readonly access: AccessBook;
  readonly pushed: PushedCredentials;
  readonly environment: CredentialEnvironment;
  readonly observe: RegistryObserver;
  /** Where their share may change; default: one of its own. */
  readonly hedges?: HedgeBudget;
}): RegistrySource {
  const { config, log, access, pushed, environment, observe, hedges } = parts;
  const { credentials: configured, docker_config: dockerConfig, certs_dir } = config.registry;
  const given = { clock, log, pushed, configured, dockerConfig, environment };
  const hosts = new HostsBook({ directory: certs_dir, clock, log });
  return createRegistrySource({
    ...registryParts(config, log),
    access,
    credentials: createCredentialSource(given),
    observe,
    hedges,
    environment: process.env,
    upstreams: (host, plain) => hosts.upstreams(host, plain),
  });
}

function registryParts({ registry, p2p }: Config, log: RegistryLog): RegistryParts {
  return {
    clock,
    random: Math.random,
    log,
    options: {
      plainHttp: (host) => isLoopback(host) || registry.plain_http.includes(host),
      connections: registry.connections,
      attemptsMax: registry.attempts,
      connectTimeoutMs: registry.connect_timeout,
      headersTimeoutMs: registry.headers_timeout,
      stallTimeoutMs: registry.stall_timeout,
      hedgePercent: registry.hedge_percent,
    },
    peers: peersOf(p2p),
  };
}

function peersOf(p2p: Config["p2p"]): PeerOptions | undefined {
  if (p2p.proxy === undefined) return undefined;
  const proxy = {
    url: p2p.proxy,
    pingUrl: p2p.health,
    fallback: p2p.fallback,
    checkIntervalMs: p2p.check_interval,
    useHttp: p2p.use_http,
    headers: p2p.headers,
    prefetchHeaders: p2p.prefetch_hint ? { "x-dragonfly-prefetch": "true" } : {},
    pieceBytes: p2p.piece,
    patienceMs: p2p.patience,
  };
  return { proxy, hosts: p2p.hosts };
}
