// SPDX-License-Identifier: Apache-2.0
// One GET over the way its repository is reached: straight or through the proxy of its profile,
// with the profile's TLS and timeouts. A proxy is a shortcut, not a second truth: with `fallback`
// whatever goes wrong there is tried at the origin, at once when no byte was delivered yet.

import { DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Access, ProxyProfile } from "./access.ts";
import { type BodySink, type ResponseHead, exchange } from "./exchange.ts";
import { transportFault } from "./faults.ts";
import type { RegistryLog, RegistryObserver, RegistryOptions } from "./options.ts";
import type { Pools, Way } from "./pools.ts";
import { Proxies } from "./proxies.ts";
import type { Upstream } from "./upstream.ts";

const PROXY_AUTHENTICATION_REQUIRED = 407;

/** Shared by all tries of one fetch. */
export interface Route {
  /** The proxy failed this fetch: the rest of it goes to the origin. */
  isDirect: boolean;
}

export interface Call {
  readonly url: URL;
  /** Whose certificates count; undefined for what is no upstream's. */
  readonly upstream: Upstream | undefined;
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  readonly access: Access | undefined;
  readonly onHead: (head: ResponseHead) => BodySink | undefined;
}

export interface TransportParts {
  readonly clock: Clock;
  readonly options: RegistryOptions;
  readonly pools: Pools;
  readonly observe: RegistryObserver;
  readonly log: RegistryLog | undefined;
  readonly closing: AbortSignal;
}

export class Transport {
  readonly #parts: TransportParts;
  readonly #proxies: Proxies;

  constructor(parts: TransportParts) {
    this.#parts = parts;
    this.#proxies = new Proxies({
      clock: parts.clock,
      closing: parts.closing,
      ping: (url) => this.#ping(url),
      onChange: (proxy, isGood) => {
        if (isGood) parts.log?.debug({ proxy }, "the proxy answers its ping again");
        else parts.log?.warn({ proxy }, "the proxy does not answer its ping");
      },
    });
  }

  /** As exchange(). A proxy's own failures are registry_*, and name the proxy. */
  async get(call: Call, route: Route): Promise<ResponseHead> {
    const proxy = call.access?.profile.proxy;
    if (proxy === undefined || route.isDirect) return await this.getDirect(call);
    if (this.#proxies.isGood(proxy)) {
      const head = await this.#getProxied(call, proxy, route);
      if (head !== undefined) return head;
    } else if (!proxy.fallback) {
      const detail = `its proxy ${new URL(proxy.url).host} does not answer its ping`;
      throw new DaemonError({ code: "registry_unreachable", host: call.url.host, detail });
    }
    return await this.getDirect(call);
  }

  /** Past any proxy: also what a token service or a ping is asked with. */
  getDirect(call: Call): Promise<ResponseHead> {
    return this.#exchange(call, { access: call.access, upstream: call.upstream, proxied: false });
  }

  /** Undefined: ask the origin. */
  async #getProxied(
    call: Call,
    proxy: ProxyProfile,
    route: Route,
  ): Promise<ResponseHead | undefined> {
    let hasBody = false;
    const onHead = (head: ResponseHead): BodySink | undefined => {
      const sink = call.onHead(head);
      return sink === undefined
        ? undefined
        : (piece) => {
            hasBody = true;
            sink(piece);
          };
    };
    try {
      const way = { access: call.access, upstream: call.upstream, proxied: true };
      const { status, ...head } = await this.#exchange({ ...call, onHead }, way);
      const isFailure = status >= 500 || status === PROXY_AUTHENTICATION_REQUIRED;
      return proxy.fallback && isFailure ? undefined : { status, ...head };
    } catch (error) {
      if (!(error instanceof DaemonError) || call.signal.aborted) throw error;
      const named = naming(error, new URL(proxy.url).host);
      if (!proxy.fallback) throw named;
      route.isDirect = true;
      if (hasBody) throw named;
      this.#parts.log?.debug({ code: error.fault.code }, `${named.message}; asking the origin`);
      return undefined;
    }
  }

  async #exchange(call: Call, way: Way): Promise<ResponseHead> {
    const { clock, options, pools, observe } = this.#parts;
    const { host } = call.url;
    const { headersTimeoutMs, stallTimeoutMs } = call.access?.profile ?? {};
    observe.request?.(host);
    const { dispatcher, target, headers } = await pools
      .for(call.url, way)
      .catch((error: unknown) => {
        throw transportFault(error, host);
      });
    return await exchange({
      dispatcher,
      url: call.url,
      target,
      headers: {
        ...ownHeaders(call),
        ...call.headers,
        ...headers,
        "accept-encoding": "identity",
        "user-agent": "erofsd",
      },
      signal: call.signal,
      clock,
      headersTimeoutMs: headersTimeoutMs ?? options.headersTimeoutMs,
      stallTimeoutMs: stallTimeoutMs ?? options.stallTimeoutMs,
      onHead: call.onHead,
      onBytes: (count) => observe.bytes?.(host, count),
    });
  }

  /** A ping is bounded by the timeouts of connecting and of headers; its body is not waited for. */
  async #ping(url: URL): Promise<boolean> {
    const { closing } = this.#parts;
    const none = { upstream: undefined, access: undefined };
    const call = { url, headers: { accept: "*/*" }, signal: closing, ...none };
    try {
      const { status } = await this.getDirect({ ...call, onHead: () => undefined });
      return status >= 200 && status < 400;
    } catch {
      return false;
    }
  }
}

/** An upstream's headers are for no one else, wherever it redirects to. */
function ownHeaders({ upstream, url }: Call): Readonly<Record<string, string>> {
  return upstream !== undefined && url.origin === upstream.baseUrl.origin ? upstream.headers : {};
}

/** The same fault, with the proxy's host where there is room for it. */
function naming(error: DaemonError, proxyHost: string): DaemonError {
  const { fault } = error;
  const isOfTransport =
    fault.code === "registry_unreachable" ||
    fault.code === "registry_timeout" ||
    fault.code === "registry_protocol";
  if (!isOfTransport) return error;
  const detail = `${fault.detail} (through the proxy ${proxyHost})`;
  return new DaemonError({ ...fault, detail }, { cause: error });
}
