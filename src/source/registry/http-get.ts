// SPDX-License-Identifier: Apache-2.0
// A GET at a registry as one try: follows redirects (RFC 9110, section 15.4), answers a Bearer
// challenge once, and turns every other answer into a fault. Authorization is sent to the
// registry's own origin alone; a redirect never leads from TLS to plain HTTP.

import { DaemonError, type Fault } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import { type BodySink, type ResponseHead, exchange } from "./exchange.ts";
import { statusFault } from "./faults.ts";
import type { RegistryObserver, RegistryOptions } from "./options.ts";
import type { Pools } from "./pools.ts";
import { type RetryHints, parseRetryAfter } from "./retry.ts";
import { Tokens } from "./tokens.ts";

const REDIRECTS_MAX = 5;
const REDIRECT_STATUSES = new Set([301, 302, 303, 307, 308]);
const TOKEN_BYTES_MAX = 64 * 1024;

export interface GetRequest {
  readonly url: URL;
  readonly repository: string;
  /** Names what is fetched in faults: `blob sha256:...`. */
  readonly what: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  readonly hints: RetryHints;
  readonly notFound: Fault;
  /** For 200 and 206: checks the head and says where the body goes. */
  readonly onHead: (head: ResponseHead) => BodySink;
  /** A fault for a status that means something of its own; undefined for the usual one. */
  readonly onStatus?: (head: ResponseHead) => DaemonError | undefined;
}

export interface HTTPParts {
  readonly clock: Clock;
  readonly wallClockMs: () => number;
  readonly options: RegistryOptions;
  readonly pools: Pools;
  readonly observe: RegistryObserver;
  /** Aborted when the source is closed; bounds the fetch of a token, which many may wait for. */
  readonly closing: AbortSignal;
}

export class HTTPClient {
  readonly #parts: HTTPParts;
  readonly #tokens: Tokens;

  constructor(parts: HTTPParts) {
    this.#parts = parts;
    this.#tokens = new Tokens({
      clock: parts.clock,
      fetchDocument: (url) => this.#fetchDocument(url),
    });
  }

  /** Settles after the last byte of a 200's or 206's body. Rejects with registry_*, notFound. */
  async get(request: GetRequest): Promise<void> {
    let url = request.url;
    let redirects = 0;
    let challenged = false;
    for (;;) {
      const head = await this.#exchangeOnce(request, url);
      if (isServed(head.status)) return;
      if (REDIRECT_STATUSES.has(head.status)) {
        redirects += 1;
        if (redirects > REDIRECTS_MAX) {
          throw protocolFault(head.host, `more than ${REDIRECTS_MAX} redirects`);
        }
        url = redirectTarget(url, head);
      } else if (head.status === 401 && !challenged && url.origin === request.url.origin) {
        challenged = true;
        if (!(await this.#authorize(request, head))) throw this.#faultOf(request, head);
        url = request.url;
      } else {
        throw this.#faultOf(request, head);
      }
    }
  }

  #exchangeOnce(request: GetRequest, url: URL): Promise<ResponseHead> {
    const authorization =
      url.origin === request.url.origin
        ? this.#tokens.authorization(request.url, request.repository)
        : undefined;
    const headers = authorization === undefined ? {} : { authorization };
    return this.#exchange({
      url,
      headers: { ...request.headers, ...headers },
      signal: request.signal,
      onHead: (head) => {
        if (!isServed(head.status)) return undefined;
        checkEncoding(head);
        return request.onHead(head);
      },
    });
  }

  #exchange(call: {
    readonly url: URL;
    readonly headers: Readonly<Record<string, string>>;
    readonly signal: AbortSignal;
    readonly onHead: (head: ResponseHead) => BodySink | undefined;
  }): Promise<ResponseHead> {
    const { clock, options, pools, observe } = this.#parts;
    const { host } = call.url;
    observe.request?.(host);
    return exchange({
      ...call,
      headers: { ...call.headers, "accept-encoding": "identity", "user-agent": "erofsd" },
      dispatcher: pools.for(call.url),
      clock,
      headersTimeoutMs: options.headersTimeoutMs,
      stallTimeoutMs: options.stallTimeoutMs,
      onBytes: (count) => observe.bytes?.(host, count),
    });
  }

  /** A token that was sent and refused is of no more use. */
  async #authorize(request: GetRequest, head: ResponseHead): Promise<boolean> {
    const { url, repository } = request;
    this.#tokens.forget(url, repository);
    const challenge = head.headers.get("www-authenticate") ?? "";
    return await this.#tokens.answerChallenge(url, repository, challenge);
  }

  #faultOf(request: GetRequest, head: ResponseHead): DaemonError {
    const special = request.onStatus?.(head);
    if (special !== undefined) return special;
    const { status, host } = head;
    const retryAfterMs =
      status === 429 || status === 503
        ? parseRetryAfter(head.headers, this.#parts.wallClockMs)
        : undefined;
    request.hints.retryAfterMs = retryAfterMs;
    const { repository, what, notFound } = request;
    return statusFault({ host, repository, status, retryAfterMs, what, notFound });
  }

  async #fetchDocument(url: URL): Promise<Uint8Array> {
    const pieces = new PieceCollector(TOKEN_BYTES_MAX, url.host);
    const head = await this.#exchange({
      url,
      headers: { accept: "application/json" },
      signal: this.#parts.closing,
      onHead: (head) => {
        if (head.status !== 200) return undefined;
        checkEncoding(head);
        return (piece) => pieces.add(piece);
      },
    });
    if (head.status !== 200) {
      const { host, status } = head;
      const detail = "anonymous token";
      throw new DaemonError({ code: "registry_failed", host, status, detail });
    }
    return pieces.join();
  }
}

/** Copies a body that is wanted whole; faults with registry_protocol beyond `bytesMax`. */
export class PieceCollector {
  readonly #bytesMax: number;
  readonly #host: string;
  readonly #pieces: Uint8Array[] = [];
  #byteCount = 0;

  constructor(bytesMax: number, host: string) {
    this.#bytesMax = bytesMax;
    this.#host = host;
  }

  add(piece: Uint8Array): void {
    this.#byteCount += piece.length;
    if (this.#byteCount > this.#bytesMax) {
      throw protocolFault(this.#host, `a document of more than ${this.#bytesMax} bytes`);
    }
    this.#pieces.push(Uint8Array.from(piece));
  }

  join(): Uint8Array {
    return Uint8Array.from(Buffer.concat(this.#pieces, this.#byteCount));
  }
}

export function protocolFault(host: string, detail: string): DaemonError {
  return new DaemonError({ code: "registry_protocol", host, detail });
}

function isServed(status: number): boolean {
  return status === 200 || status === 206;
}

function checkEncoding(head: ResponseHead): void {
  const encoding = head.headers.get("content-encoding")?.trim().toLowerCase() ?? "identity";
  if (encoding !== "identity" && encoding !== "") {
    throw protocolFault(head.host, `Content-Encoding ${encoding.slice(0, 32)}, which we refused`);
  }
}

function redirectTarget(from: URL, head: ResponseHead): URL {
  const location = head.headers.get("location") ?? "";
  if (location === "" || !URL.canParse(location, from.href)) {
    throw protocolFault(head.host, `${head.status} without a usable Location`);
  }
  const target = new URL(location, from);
  if (target.protocol !== "https:" && target.protocol !== "http:") {
    throw protocolFault(head.host, `a redirect to ${target.protocol}`);
  }
  if (from.protocol === "https:" && target.protocol === "http:") {
    throw protocolFault(head.host, `a redirect from https to plain http at ${target.host}`);
  }
  target.username = "";
  target.password = "";
  return target;
}
