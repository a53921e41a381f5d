// SPDX-License-Identifier: Apache-2.0
// One request over the way its try is to go: straight, or through a proxy, with the upstream's and the
// profile's TLS and timeouts. Which way that is, and what follows a failure, is not decided here.

import { DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { TraceIds } from "../source.ts";
import type { Access, ProxyProfile } from "./access.ts";
import {
  type BodyFlow,
  type BodySink,
  type Method,
  type ResponseHead,
  exchange,
} from "./exchange.ts";
import { transportFault } from "./faults.ts";
import type { RegistryLog, RegistryObserver, RegistryOptions } from "./options.ts";
import type { Pools, Way } from "./pools.ts";
import type { Upstream } from "./upstream.ts";

/** How the requests of one try go. */
export interface Route {
  /** Undefined: straight. */
  readonly proxy: ProxyProfile | undefined;
  /** For the proxy alone. */
  readonly headers: Readonly<Record<string, string>>;
}

const TOO_MANY_REQUESTS = 429;

export const STRAIGHT: Route = { proxy: undefined, headers: {} };

export interface Call {
  readonly url: URL;
  /** Whose certificates count; undefined for what is no upstream's. */
  readonly upstream: Upstream | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** Default: GET. */
  readonly method?: Method | undefined;
  readonly body?: string | Uint8Array | undefined;
  readonly signal: AbortSignal;
  readonly traced?: TraceIds | undefined;
  readonly access: Access | undefined;
  readonly onHead: (head: ResponseHead, flow: BodyFlow) => BodySink | undefined;
}

export interface TransportParts {
  readonly clock: Clock;
  readonly options: RegistryOptions;
  readonly pools: Pools;
  readonly observe: RegistryObserver;
  readonly log?: RegistryLog | undefined;
  /** Ends the pings. */
  readonly closing: AbortSignal;
}

export class Transport {
  readonly #parts: TransportParts;

  constructor(parts: TransportParts) {
    this.#parts = parts;
  }

  /** As exchange(). Failures of a proxy's connection are registry_*, and name the proxy. */
  async get(call: Call, route: Route): Promise<ResponseHead> {
    const { proxy } = route;
    if (proxy === undefined) return await this.getDirect(call);
    const headers = { ...call.headers, ...route.headers };
    const way = { access: call.access, upstream: call.upstream, proxy };
    return await this.#exchange({ ...call, headers }, way);
  }

  /** Past peers: also what a token service is asked with. */
  getDirect(call: Call): Promise<ResponseHead> {
    const { access, upstream } = call;
    return this.#exchange(call, { access, upstream, proxy: undefined });
  }

  /** True when the upstream answers its API's root in any way but by failing; never rejects. */
  async pingUpstream(upstream: Upstream, access: Access | undefined): Promise<boolean> {
    const call = {
      url: upstream.baseUrl,
      upstream,
      headers: { accept: "*/*" },
      signal: this.#parts.closing,
      access,
      onHead: () => undefined,
    };
    try {
      const { status } = await this.getDirect(call);
      return status < 500 && status !== TOO_MANY_REQUESTS;
    } catch {
      return false;
    }
  }

  /** Answers 2xx or 3xx. Bounded by the timeouts of connecting and of headers. */
  async ping(url: URL): Promise<boolean> {
    const { closing } = this.#parts;
    const none = { upstream: undefined, access: undefined };
    const call = { url, headers: { accept: "*/*" }, signal: closing, ...none };
    try {
      const way = { ...none, proxy: undefined, isLocal: true };
      const { status } = await this.#exchange({ ...call, onHead: () => undefined }, way);
      return status >= 200 && status < 400;
    } catch {
      return false;
    }
  }

  async #exchange(call: Call, way: Way): Promise<ResponseHead> {
    const { clock, options, pools, observe, log } = this.#parts;
    const { host } = call.url;
    const { headersTimeoutMs, stallTimeoutMs } = call.access?.profile ?? {};
    const via = way.proxy === undefined ? "direct" : "peers";
    observe.request?.(host, via);
    // Not the URL: it may be signed.
    const { traced } = call;
    if (traced !== undefined) {
      log?.trace?.({ ...traced, host, via, range: call.headers["range"] }, "registry request");
    }
    const connection = await pools.for(call.url, way).catch((error: unknown) => {
      throw transportFault(error, host);
    });
    const { dispatcher, target, headers, through } = connection;
    const exchanging = exchange({
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
      method: call.method,
      body: call.body,
      signal: call.signal,
      clock,
      headersTimeoutMs: headersTimeoutMs ?? options.headersTimeoutMs,
      stallTimeoutMs: stallTimeoutMs ?? options.stallTimeoutMs,
      onHead: call.onHead,
      onBytes: (count) => observe.bytes?.(host, count, via),
    });
    if (through === undefined) return await exchanging;
    return await exchanging.catch((error: unknown) => {
      if (!(error instanceof DaemonError) || call.signal.aborted) throw error;
      throw naming(error, through);
    });
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
