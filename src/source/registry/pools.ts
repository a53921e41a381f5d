// SPDX-License-Identifier: Apache-2.0
// Connection pools, one for each origin (registry, CDN, token service). Bounded in number; the
// pool that was not used for longest is closed when there are too many, after its requests.

import { rootCertificates } from "node:tls";
import { LRUCache } from "lru-cache";
import { Pool } from "undici";
import { ignoreBecause } from "../ignore.ts";
import type { RegistryOptions } from "./options.ts";

const POOLS_MAX = 32;
const HEADER_BYTES_MAX = 32 * 1024;
const KEEP_ALIVE_MS = 30_000;

export class Pools {
  readonly #options: RegistryOptions;
  readonly #pools = new LRUCache<string, Pool>({
    max: POOLS_MAX,
    dispose: (pool) => {
      ignoreBecause("a pool that was pushed out ends after its requests", pool.close());
    },
  });

  constructor(options: RegistryOptions) {
    this.#options = options;
  }

  for(url: URL): Pool {
    const known = this.#pools.get(url.origin);
    if (known !== undefined) return known;
    const { connections, connectTimeoutMs, tlsCa } = this.#options;
    const pool = new Pool(url.origin, {
      connections,
      pipelining: 1,
      keepAliveTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
      // Timed in exchange.ts, on the injected clock.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: {
        timeout: connectTimeoutMs,
        ...(tlsCa === undefined ? {} : { ca: [...rootCertificates, tlsCa] }),
      },
    });
    this.#pools.set(url.origin, pool);
    return pool;
  }

  /** Ends all connections at once; what is under way fails with `reason`. */
  async destroy(reason: Error): Promise<void> {
    const pools = [...this.#pools.values()];
    await Promise.all(pools.map((pool) => pool.destroy(reason)));
  }
}
