// SPDX-License-Identifier: Apache-2.0
// Connection pools, one for each origin (registry, CDN, token service) and way to reach it.
// Bounded in number; the pool that was not used for longest is closed when there are too many,
// after its requests.

import { readFile } from "node:fs/promises";
import { rootCertificates } from "node:tls";
import { LRUCache } from "lru-cache";
import { type Dispatcher, Pool, ProxyAgent } from "undici";
import { ignoreBecause } from "../ignore.ts";
import { type Access, basicAuthorization } from "./access.ts";
import type { RegistryOptions } from "./options.ts";

const POOLS_MAX = 64;
const HEADER_BYTES_MAX = 32 * 1024;
const KEEP_ALIVE_MS = 30_000;

export interface Way {
  readonly access: Access | undefined;
  /** Through the proxy of `access`. */
  readonly proxied: boolean;
}

/** Where to dispatch a request, and as what. */
export interface Connection {
  readonly dispatcher: Dispatcher;
  /** What comes after the method: a path, or for a proxy that is asked in plain, the whole URL. */
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
}

interface TLSOptions {
  readonly rejectUnauthorized: boolean;
  readonly ca?: string[];
}

export class Pools {
  readonly #options: RegistryOptions;
  readonly #pools = new LRUCache<string, Dispatcher>({
    max: POOLS_MAX,
    dispose: (pool) => {
      ignoreBecause("a pool that was pushed out ends after its requests", pool.close());
    },
  });

  constructor(options: RegistryOptions) {
    this.#options = options;
  }

  /** Rejects with the system's error when a file of certificates cannot be read. */
  async for(url: URL, way: Way): Promise<Connection> {
    const proxy = way.proxied ? way.access?.profile.proxy : undefined;
    if (proxy === undefined) {
      const dispatcher = await this.#pool(url.origin, way.access, "");
      return { dispatcher, target: `${url.pathname}${url.search}`, headers: {} };
    }
    const at = new URL(proxy.url);
    // As a tunnel the proxy would see nothing: where it may look into the request, it is asked.
    const asked = proxy.useHttp === true ? asHTTP(url) : url;
    if (asked.protocol === "https:") {
      const dispatcher = await this.#pool(url.origin, way.access, at.href);
      return { dispatcher, target: `${url.pathname}${url.search}`, headers: {} };
    }
    const dispatcher = await this.#pool(at.origin, way.access, "");
    const headers = { host: asked.host, ...proxyAuthorization(at) };
    const target = `${asked.origin}${asked.pathname}${asked.search}`;
    return { dispatcher, target, headers };
  }

  /** Ends all connections at once; what is under way fails with `reason`. */
  async destroy(reason: Error): Promise<void> {
    const pools = [...this.#pools.values()];
    await Promise.all(pools.map((pool) => pool.destroy(reason)));
  }

  async #pool(origin: string, access: Access | undefined, tunnel: string): Promise<Dispatcher> {
    const { skipVerify = false, caFiles = [], connectTimeoutMs } = access?.profile ?? {};
    const timeout = connectTimeoutMs ?? this.#options.connectTimeoutMs;
    const key = JSON.stringify([origin, tunnel, skipVerify, caFiles, timeout]);
    const known = this.#pools.get(key);
    if (known !== undefined) return known;
    const tls = await this.#tls(skipVerify, caFiles);
    // Another request may have made it meanwhile.
    const pool = this.#pools.get(key) ?? this.#make({ origin, tunnel, timeout, tls });
    this.#pools.set(key, pool);
    return pool;
  }

  #make(way: { origin: string; tunnel: string; timeout: number; tls: TLSOptions }): Dispatcher {
    const { origin, tunnel, timeout, tls } = way;
    const connect = { timeout, ...tls };
    const options = {
      connections: this.#options.connections,
      pipelining: 1,
      keepAliveTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
      // Timed in exchange.ts, on the injected clock.
      headersTimeout: 0,
      bodyTimeout: 0,
    };
    if (tunnel === "") return new Pool(origin, { ...options, connect });
    return new ProxyAgent({
      ...options,
      uri: tunnel,
      requestTls: connect,
      proxyTls: connect,
      // Nobody else would notice a proxy that never opens the tunnel.
      clientFactory: (at, given) => new Pool(at, { ...given, headersTimeout: timeout }),
    });
  }

  async #tls(skipVerify: boolean, caFiles: readonly string[]): Promise<TLSOptions> {
    const { tlsCa } = this.#options;
    const given = await Promise.all(caFiles.map((path) => readFile(path, "utf8")));
    const extra = tlsCa === undefined ? given : [tlsCa, ...given];
    const rejectUnauthorized = !skipVerify;
    return extra.length === 0
      ? { rejectUnauthorized }
      : { rejectUnauthorized, ca: [...rootCertificates, ...extra] };
  }
}

function asHTTP(url: URL): URL {
  const plain = new URL(url);
  plain.protocol = "http:";
  return plain;
}

function proxyAuthorization({ username, password }: URL): Readonly<Record<string, string>> {
  if (username === "" && password === "") return {};
  const [name, secret] = [decodeURIComponent(username), decodeURIComponent(password)];
  return { "proxy-authorization": basicAuthorization(name, secret) };
}
