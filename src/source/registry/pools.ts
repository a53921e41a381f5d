// SPDX-License-Identifier: Apache-2.0
// Connection pools, one for each origin (registry, CDN, token service) and way to reach it.
// Bounded in number; the pool that was not used for longest is closed when there are too many,
// after its requests.

import { LRUCache } from "lru-cache";
import { type Dispatcher, Pool, ProxyAgent } from "undici";
import { ignoreBecause } from "../ignore.ts";
import type { Access, ProxyProfile } from "./access.ts";
import { basicAuthorization } from "./credentials/grant.ts";
import { createConnector } from "./connect.ts";
import type { EnvironmentProxies } from "./environment-proxies.ts";
import type { RegistryOptions } from "./options.ts";
import type { TLSLoader, TLSNeeds, TLSOptions } from "./tls-options.ts";
import { PLAIN_TLS, type Upstream } from "./upstream.ts";

const POOLS_MAX = 64;
const HEADER_BYTES_MAX = 32 * 1024;
const KEEP_ALIVE_MS = 30_000;

export interface Way {
  readonly access: Access | undefined;
  readonly upstream: Upstream | undefined;
  /** Through this one; undefined: through the one of the upstream or the environment, if any. */
  readonly proxy: ProxyProfile | undefined;
  /** Never through any proxy. */
  readonly isLocal?: boolean;
}

/** Where to dispatch a request, and as what. */
export interface Connection {
  readonly dispatcher: Dispatcher;
  /** What comes after the method: a path, or for a proxy that is asked in plain, the whole URL. */
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  /** The proxy's host, if it goes through one. */
  readonly through: string | undefined;
}

export interface PoolsParts {
  readonly options: RegistryOptions;
  readonly tls: TLSLoader;
  readonly environment: EnvironmentProxies;
}

export class Pools {
  readonly #parts: PoolsParts;
  readonly #pools = new LRUCache<string, Dispatcher>({
    max: POOLS_MAX,
    dispose: (pool) => {
      ignoreBecause("a pool that was pushed out ends after its requests", pool.close());
    },
  });

  constructor(parts: PoolsParts) {
    this.#parts = parts;
  }

  /** Rejects with an error that names the file when a file of certificates cannot be used. */
  async for(url: URL, way: Way): Promise<Connection> {
    const { upstream, proxy } = way;
    const isOfUpstream = url.origin === upstream?.baseUrl.origin;
    const at =
      proxy === undefined
        ? ((isOfUpstream ? upstream.proxy : undefined) ?? this.#parts.environment.for(url))
        : new URL(proxy.url);
    if (at === undefined || way.isLocal === true) {
      const dispatcher = await this.#pool(url.origin, way, "");
      return {
        dispatcher,
        target: `${url.pathname}${url.search}`,
        headers: {},
        through: undefined,
      };
    }
    const through = at.host;
    // As a tunnel the proxy would see nothing: where it may look into the request, it is asked.
    const asked = proxy?.useHttp === true ? asHTTP(url) : url;
    if (asked.protocol === "https:") {
      const dispatcher = await this.#pool(url.origin, way, at.href);
      return { dispatcher, target: `${url.pathname}${url.search}`, headers: {}, through };
    }
    const dispatcher = await this.#pool(at.origin, way, "");
    const headers = { host: asked.host, ...proxyAuthorization(at) };
    const target = `${asked.origin}${asked.pathname}${asked.search}`;
    return { dispatcher, target, headers, through };
  }

  /** Ends all connections at once; what is under way fails with `reason`. */
  async destroy(reason: Error): Promise<void> {
    const pools = [...this.#pools.values()];
    await Promise.all(pools.map((pool) => pool.destroy(reason)));
  }

  async #pool(origin: string, { access, upstream }: Way, tunnel: string): Promise<Dispatcher> {
    const timeout =
      upstream?.connectTimeoutMs ??
      access?.profile.connectTimeoutMs ??
      this.#parts.options.connectTimeoutMs;
    const needs = tlsNeeds(origin, access, upstream);
    const key = JSON.stringify([origin, tunnel, needs, timeout]);
    const known = this.#pools.get(key);
    if (known !== undefined) return known;
    const tls = needs === undefined ? {} : await this.#parts.tls.load(needs);
    // Another request may have made it meanwhile.
    const pool = this.#pools.get(key) ?? this.#make({ origin, tunnel, timeout, tls });
    this.#pools.set(key, pool);
    return pool;
  }

  #make(way: {
    origin: string;
    tunnel: string;
    timeout: number;
    tls: Partial<TLSOptions>;
  }): Dispatcher {
    const { origin, tunnel, timeout, tls } = way;
    const connect = { timeout, ...tls };
    const options = {
      connections: this.#parts.options.connections,
      pipelining: 1,
      keepAliveTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
      // Timed in exchange.ts, on the injected clock.
      headersTimeout: 0,
      bodyTimeout: 0,
    };
    if (tunnel === "") return new Pool(origin, { ...options, connect: createConnector(connect) });
    return new ProxyAgent({
      ...options,
      uri: tunnel,
      requestTls: connect,
      proxyTls: connect,
      // Nobody else would notice a proxy that never opens the tunnel.
      clientFactory: (at, given) => new Pool(at, { ...given, headersTimeout: timeout }),
    });
  }
}

/** What the repository's profile and the upstream ask for, together. */
function tlsNeeds(
  origin: string,
  access: Access | undefined,
  upstream: Upstream | undefined,
): TLSNeeds | undefined {
  if (!origin.startsWith("https:")) return undefined;
  const { skipVerify = false, caFiles = [] } = access?.profile ?? {};
  const own = upstream?.tls ?? PLAIN_TLS;
  const isOwn = origin === upstream?.baseUrl.origin;
  const clientCertificates = isOwn ? own.clientCertificates : [];
  const hasFiles = own.caFiles.length > 0 || clientCertificates.length > 0;
  return {
    caFiles: [...caFiles, ...own.caFiles],
    clientCertificates,
    skipVerify: skipVerify || own.skipVerify,
    version: hasFiles ? own.version : 0,
  };
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
