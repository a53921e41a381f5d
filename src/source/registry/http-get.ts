// SPDX-License-Identifier: Apache-2.0
// A GET, or a write, at a registry as one try: follows redirects (RFC 9110, section 15.4), answers challenges,
// and turns every other answer into a fault. Authorization is sent to the registry's own
// origin alone; a redirect leads from TLS to plain HTTP only when the repository's profile says so.

import { DaemonError, type Fault } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { TraceIds } from "../source.ts";
import type { Access, AccessProfile } from "./access.ts";
import type { CredentialSource } from "./credentials/credential-source.ts";
import type { DocumentAnswer, DocumentRequest } from "./credentials/token-service.ts";
import type { BodyFlow, BodySink, Method, ResponseHead } from "./exchange.ts";
import { statusFault } from "./faults.ts";
import { type RetryHints, parseRetryAfter } from "./retry.ts";
import { SignedURLs, refusesURL } from "./signed-urls.ts";
import { type Door, Tokens } from "./tokens.ts";
import type { Route, Transport } from "./transport.ts";
import type { Upstream } from "./upstream.ts";

const REDIRECTS_MAX = 5;
const REDIRECT_STATUSES = new Set([301, 302, 303, 307, 308]);
/** A token that has expired, then credentials that were changed. */
const CHALLENGES_MAX = 2;
const TOKEN_BYTES_MAX = 64 * 1024;

/** One try at one upstream: what is common to all that may be asked of it. */
export interface Try {
  readonly upstream: Upstream;
  readonly repository: string;
  /** How the repository is reached at this upstream now; asked for each exchange. */
  readonly access: () => Access | undefined;
  /** Straight, or through a proxy. */
  readonly route: Route;
  /** Names what is fetched in faults: `blob sha256:...`. */
  readonly what: string;
  readonly signal: AbortSignal;
  readonly traced?: TraceIds | undefined;
  /** What the try leaves for the next one. */
  readonly hints: RetryHints;
}

export interface GetRequest extends Try {
  /** At the upstream (see upstreamUrl()), or, for a write, where it sends us: nothing secret goes elsewhere. */
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** The digest of what never changes: where the registry redirects to for it may be kept. */
  readonly blob?: string;
  readonly notFound: Fault;
  /** Default: GET. Whatever else is sent is not sent again to where a registry redirects to. */
  readonly method?: Method;
  readonly body?: Uint8Array;
  /** The statuses that are what was asked for; default: 200 and 206. */
  readonly isDone?: (status: number) => boolean;
  /** For those: checks the head and says where the body goes; undefined: not wanted. */
  readonly onHead: (head: ResponseHead, flow: BodyFlow) => BodySink | undefined;
  /** A fault for a status that means something of its own; undefined for the usual one. */
  readonly onStatus?: (head: ResponseHead) => DaemonError | undefined;
}

export interface HTTPParts {
  readonly clock: Clock;
  readonly wallClockMs: () => number;
  readonly transport: Transport;
  /** Aborted when the source is closed; bounds the fetch of a token, which many may wait for. */
  readonly closing: AbortSignal;
  readonly credentials: CredentialSource | undefined;
}

export class HTTPClient {
  readonly #parts: HTTPParts;
  readonly #tokens: Tokens;
  readonly #signed: SignedURLs;

  constructor(parts: HTTPParts) {
    this.#parts = parts;
    this.#signed = new SignedURLs(parts);
    this.#tokens = new Tokens({
      ...parts,
      fetchDocument: (document, door) => this.#fetchDocument(document, door),
    });
  }

  /** Settles after the last byte of the body that was asked for. Rejects with registry_*, notFound. */
  async get(request: GetRequest): Promise<void> {
    const key = this.#redirectKey(request);
    const kept = key === undefined ? undefined : this.#signed.get(key);
    if (key !== undefined && kept !== undefined && (await this.#getKept(request, kept, key)))
      return;
    await this.#follow(request, key);
  }

  /** False: the URL is refused; ask the registry, for that is no failure yet. */
  async #getKept(request: GetRequest, url: URL, key: string): Promise<boolean> {
    try {
      const head = await this.#exchangeOnce(request, url, undefined);
      if (isServed(request, head.status)) return true;
      if (!refusesURL(head.status)) throw this.#faultOf(request, head);
      this.#signed.forget(key);
      return false;
    } catch (error) {
      if (!request.signal.aborted) this.#signed.forget(key);
      throw error;
    }
  }

  async #follow(request: GetRequest, key: string | undefined): Promise<void> {
    let url = request.url;
    let redirects = 0;
    let challenges = 0;
    let date: string | undefined;
    for (;;) {
      const isOwn = url.origin === request.upstream.baseUrl.origin;
      const known = isOwn ? this.#tokens.authorization(doorOf(request)) : undefined;
      const authorization = typeof known === "object" ? await known : known;
      const head = await this.#exchangeOnce(request, url, authorization, (status) => {
        // Others may go there while this body is still coming.
        const isElsewhere = isServed(request, status) && !isOwn;
        if (key !== undefined && isElsewhere) this.#signed.keep(key, url, date);
      });
      if (isServed(request, head.status)) return;
      if (REDIRECT_STATUSES.has(head.status) && request.method === undefined) {
        redirects += 1;
        if (redirects > REDIRECTS_MAX) {
          throw protocolFault(head.host, `more than ${REDIRECTS_MAX} redirects`);
        }
        date = head.headers.get("date");
        url = redirectTarget(url, head, request.access()?.profile);
      } else if (isOwn && isRefusal(head, authorization) && challenges < CHALLENGES_MAX) {
        challenges += 1;
        const challenge = head.status === 401 ? challengeOf(head) : undefined;
        const refusal = { challenge, sent: authorization, isAgain: challenges > 1 };
        if (!(await this.#tokens.answerChallenge(doorOf(request), refusal))) {
          throw this.#faultOf(request, head);
        }
        url = request.url;
      } else {
        throw this.#faultOf(request, head);
      }
    }
  }

  /** Undefined for what is not kept: no blob, or one that a proxy is to see asked for by its name. */
  #redirectKey({ upstream, repository, blob, access, route }: GetRequest): string | undefined {
    if (blob === undefined || route.proxy !== undefined) return undefined;
    // Signed for what was shown then.
    const shown = `${access()?.credentialsVersion ?? 0} ${this.#parts.credentials?.generation ?? 0}`;
    return `${upstream.baseUrl.href} ${repository} ${blob} ${shown}`;
  }

  #exchangeOnce(
    request: GetRequest,
    url: URL,
    authorization: string | undefined,
    onStatus: (status: number) => void = () => undefined,
  ): Promise<ResponseHead> {
    const headers = authorization === undefined ? {} : { authorization };
    const call = {
      url,
      upstream: request.upstream,
      method: request.method,
      headers: { ...request.headers, ...headers },
      body: request.body,
      signal: request.signal,
      traced: request.traced,
      access: request.access(),
      onHead: (head: ResponseHead, flow: BodyFlow) => {
        if (!isServed(request, head.status)) return undefined;
        checkEncoding(head);
        const sink = request.onHead(head, flow);
        onStatus(head.status);
        return sink;
      },
    };
    return this.#parts.transport.get(call, request.route);
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

  /** Never through a proxy: a password is for the token service alone. */
  async #fetchDocument(
    { url, authorization, form }: DocumentRequest,
    { access, upstream }: Door,
  ): Promise<DocumentAnswer> {
    const pieces = new PieceCollector(TOKEN_BYTES_MAX, url.host);
    const type = form && { "content-type": "application/x-www-form-urlencoded" };
    const { status, headers } = await this.#parts.transport.getDirect({
      url,
      upstream,
      headers: { accept: "application/json", ...(authorization && { authorization }), ...type },
      ...(form && { method: "POST" as const, body: form.toString() }),
      signal: this.#parts.closing,
      access,
      onHead: (head) => {
        if (head.status !== 200) return undefined;
        checkEncoding(head);
        return (piece) => pieces.add(piece);
      },
    });
    return { status, headers, bytes: pieces.join() };
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

function isServed({ isDone }: GetRequest, status: number): boolean {
  return isDone?.(status) ?? (status === 200 || status === 206);
}

/** Some registries answer 403 when what they took before has expired. */
function isRefusal({ status }: ResponseHead, sent: string | undefined): boolean {
  return status === 401 || (status === 403 && sent !== undefined);
}

function challengeOf({ headers }: ResponseHead): string {
  return headers.get("www-authenticate") ?? "";
}

function checkEncoding(head: ResponseHead): void {
  const encoding = head.headers.get("content-encoding")?.trim().toLowerCase() ?? "identity";
  if (encoding !== "identity" && encoding !== "") {
    throw protocolFault(head.host, `Content-Encoding ${encoding.slice(0, 32)}, which we refused`);
  }
}

/** Where a Location leads; faults where no byte may be sent. */
export function redirectTarget(
  from: URL,
  head: ResponseHead,
  { blobUrlScheme, blobRedirectedHost }: AccessProfile = {},
): URL {
  const location = head.headers.get("location") ?? "";
  if (location === "" || !URL.canParse(location, from.href)) {
    throw protocolFault(head.host, `${head.status} without a usable Location`);
  }
  const target = new URL(location, from);
  if (target.protocol !== "https:" && target.protocol !== "http:") {
    throw protocolFault(head.host, `a redirect to ${target.protocol}`);
  }
  if (blobUrlScheme !== undefined) target.protocol = blobUrlScheme;
  if (blobRedirectedHost !== undefined) target.host = blobRedirectedHost;
  const isDowngrade = from.protocol === "https:" && target.protocol === "http:";
  if (isDowngrade && blobUrlScheme !== "http") {
    throw protocolFault(head.host, `a redirect from https to plain http at ${target.host}`);
  }
  target.username = "";
  target.password = "";
  return target;
}

function doorOf({ url, upstream, repository, access }: GetRequest): Door {
  return { registry: url, upstream, repository, access: access() };
}
