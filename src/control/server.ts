// SPDX-License-Identifier: Apache-2.0
// The control socket: HTTP/1.1 on a unix socket, mode 0600 (socket-place.ts says who gets in), and,
// where that is configured, on a loopback port, for whoever has the token (token.ts).
// Whatever goes wrong is answered with one JSON object, also what Node's parser refuses. A client
// that is slow, or asks too much, is answered with an error and costs a bounded amount of memory.

import { once } from "node:events";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import type { Duplex } from "node:stream";
import type { ListenAddress } from "../config/listen-address.ts";
import { DaemonError, asDaemonError } from "../errors.ts";
import type { Log } from "../platform/log.ts";
import { listenAt, listenPrivately } from "../platform/private-socket.ts";
import type { ControlOperations } from "./control-operations.ts";
import type { PeerCheck } from "./peers.ts";
import { failureOf, parserFailure, statusOf } from "./failures.ts";
import { readBody } from "./read-body.ts";
import {
  type Answer,
  type Asked,
  METHODS,
  type Route,
  type TextAnswer,
  jsonAnswer,
} from "./route.ts";
import { ROUTES } from "./routes.ts";
import { errnoName, takePlace, unfit } from "./socket-place.ts";
import { listenAtAddress } from "./tcp-listening.ts";
import type { TokenCheck } from "./token.ts";

export interface ControlLimits {
  readonly bodyBytesMax: number;
  /** Under way at once; more are answered 503. */
  readonly requestsMax: number;
  /** More are closed unanswered. */
  readonly connectionsMax: number;
  /** Until a request's head is there, and until all of it is. */
  readonly headersTimeoutMs: number;
  readonly requestTimeoutMs: number;
  /** Until a client has taken what it was sent. */
  readonly sendTimeoutMs: number;
  /** How long streams may take to end when the server closes. */
  readonly closeGraceMs: number;
}

export const CONTROL_LIMITS: ControlLimits = {
  bodyBytesMax: 64 * 1024,
  requestsMax: 64,
  connectionsMax: 256,
  headersTimeoutMs: 5000,
  requestTimeoutMs: 10_000,
  sendTimeoutMs: 30_000,
  closeGraceMs: 200,
};

/** Where the same is served over TCP. */
export interface TCPAccess {
  readonly address: ListenAddress;
  readonly tokens: Pick<TokenCheck, "check" | "load">;
}

export class ControlServer {
  readonly #server: Server;
  readonly #tcp: { readonly server: Server; readonly access: TCPAccess } | undefined;
  readonly #socketPath: string;
  readonly #operations: ControlOperations;
  readonly #log: Log;
  readonly #peers: Pick<PeerCheck, "check">;
  readonly #limits: ControlLimits;
  readonly #responses = new Set<ServerResponse>();
  #onIdle: (() => void) | undefined;

  constructor(parts: {
    readonly socketPath: string;
    readonly operations: ControlOperations;
    readonly log: Log;
    readonly limits?: Partial<ControlLimits>;
    readonly tcp?: TCPAccess | undefined;
    readonly peers: Pick<PeerCheck, "check">;
  }) {
    this.#socketPath = parts.socketPath;
    this.#operations = parts.operations;
    this.#log = parts.log;
    this.#peers = parts.peers;
    this.#limits = { ...CONTROL_LIMITS, ...parts.limits };
    this.#server = this.#makeServer();
    const { tcp } = parts;
    this.#tcp = tcp && { server: this.#makeServer(tcp), access: tcp };
  }

  #makeServer(tcp?: TCPAccess): Server {
    const { headersTimeoutMs: headersTimeout, requestTimeoutMs: requestTimeout } = this.#limits;
    const connectionsCheckingInterval = Math.min(1000, headersTimeout);
    const timeouts = { headersTimeout, requestTimeout, connectionsCheckingInterval };
    const serve = (request: IncomingMessage, response: ServerResponse): void => {
      void this.#serve(request, response, tcp);
    };
    // There is one host here, whatever a client calls it.
    const server = createServer({ ...timeouts, requireHostHeader: false }, serve);
    // Node would refuse it with an empty body; RFC 9110 lets us ignore what is expected.
    server.on("checkExpectation", serve);
    server.maxConnections = this.#limits.connectionsMax;
    server.on("clientError", (error, socket) => {
      this.#refuse(socket, parserFailure(error, this.#limits.headersTimeoutMs));
    });
    server.on("connect", (request: IncomingMessage, socket: Duplex) => {
      const path = request.url ?? "";
      const fault = {
        code: "method_unsupported",
        method: "CONNECT",
        path,
        allowed: METHODS,
      } as const;
      this.#refuse(socket, { status: 405, error: new DaemonError(fault) });
    });
    return server;
  }

  /**
   * Listens; a socket left by a dead daemon is replaced. Two daemons do not get here at once: the
   * kernel's device, which has one user, is opened before. `passedFd` is a socket that listens
   * already, and stays when the server closes. Faults: socket_in_use, config_invalid.
   */
  async listen(passedFd?: number): Promise<void> {
    const path = this.#socketPath;
    if (passedFd !== undefined) {
      await listenAt(this.#server, passedFd).catch((error: unknown) => {
        throw unfit(path, `what the service manager passed is no socket: ${errnoName(error)}`);
      });
      return;
    }
    await takePlace(path);
    await listenPrivately(this.#server, path).catch((error: unknown) => {
      throw unfit(path, `cannot be listened at: ${errnoName(error)}`);
    });
  }

  /** Where the configuration says so, over TCP too: there. Faults: config_invalid, also for a token file that will not do. */
  async listenTCP(): Promise<ListenAddress | undefined> {
    if (this.#tcp === undefined) return undefined;
    const { server, access } = this.#tcp;
    await access.tokens.load();
    return await listenAtAddress(server, access.address, "control.listen");
  }

  /** Streams that have ended get a moment to say so; everything else is cut off. */
  async close(): Promise<void> {
    const servers = [this.#server, ...(this.#tcp === undefined ? [] : [this.#tcp.server])];
    const closed = servers.map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => {
            resolve();
          });
        }),
    );
    if (this.#responses.size > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, this.#limits.closeGraceMs);
        this.#onIdle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    for (const server of servers) server.closeAllConnections();
    await Promise.all(closed);
  }

  // Never rejects: what goes wrong is answered.
  async #serve(
    request: IncomingMessage,
    response: ServerResponse,
    tcp: TCPAccess | undefined,
  ): Promise<void> {
    const isBusy = this.#responses.size >= this.#limits.requestsMax;
    this.#responses.add(response);
    const gone = new AbortController();
    response.once("close", () => {
      // Of an answer that was taken nobody waits any more, and an abort costs more than all the rest.
      if (!response.writableFinished) gone.abort();
      this.#responses.delete(response);
      if (this.#responses.size === 0) this.#onIdle?.();
    });
    try {
      if (isBusy) {
        const detail = `${this.#limits.requestsMax} requests are under way already`;
        throw new DaemonError({ code: "daemon_busy", detail });
      }
      if (tcp === undefined) this.#peers.check(request.socket);
      else await tcp.tokens.check(request.headers.authorization);
      const answer = await this.#answer(request, gone.signal);
      await this.#send(response, 200, answer, gone.signal);
    } catch (error) {
      // Nobody is left to be told.
      if (gone.signal.aborted) return;
      this.#sendFailure(request, response, asDaemonError(error));
    }
  }

  async #answer(request: IncomingMessage, gone: AbortSignal): Promise<Answer> {
    const { method = "", url = "" } = request;
    const [path = "", query = ""] = url.split(/\?(.*)/s);
    const { route, params } = findRoute(method, path);
    const asked: Asked = {
      params,
      query: new URLSearchParams(query),
      body: await readBody(request, route.bodyBytesMax ?? this.#limits.bodyBytesMax),
    };
    return route.respond(this.#operations, asked, gone);
  }

  #sendFailure(request: IncomingMessage, response: ServerResponse, error: DaemonError): void {
    const { method, url } = request;
    const { code } = error.fault;
    this.#log.debug({ code, method, url }, `control request failed: ${error.message}`);
    if (response.headersSent) {
      response.destroy();
      return;
    }
    if (error.fault.code === "method_unsupported") {
      response.setHeader("allow", error.fault.allowed.join(", "));
    }
    if (code === "token_refused") response.setHeader("www-authenticate", 'Bearer realm="erofsd"');
    if (code === "daemon_busy") response.setHeader("retry-after", "1");
    // What is unread of a body would be taken for the next request.
    if (!request.complete) response.setHeader("connection", "close");
    const { contentType, text } = jsonAnswer(failureOf(error));
    this.#sendText(response, statusOf(error), { contentType, text });
  }

  async #send(
    response: ServerResponse,
    status: number,
    { contentType, text }: Answer,
    gone: AbortSignal,
  ): Promise<void> {
    if (typeof text === "string" || text instanceof Uint8Array) {
      this.#sendText(response, status, { contentType, text });
      return;
    }
    response.writeHead(status, { "content-type": contentType, "cache-control": "no-store" });
    for await (const piece of text) {
      if (gone.aborted) return;
      if (response.write(piece)) continue;
      const patience = AbortSignal.timeout(this.#limits.sendTimeoutMs);
      await once(response, "drain", { signal: AbortSignal.any([gone, patience]) });
    }
    response.end();
  }

  #sendText(response: ServerResponse, status: number, { contentType, text }: TextAnswer): void {
    const length = typeof text === "string" ? Buffer.byteLength(text) : text.length;
    response.writeHead(status, { "content-type": contentType, "content-length": length });
    const timer = setTimeout(() => response.destroy(), this.#limits.sendTimeoutMs);
    const taken = (): void => {
      clearTimeout(timer);
    };
    response.once("finish", taken).once("close", taken);
    response.end(text);
  }

  /** For what never became a request: the connection cannot go on after it. */
  #refuse(socket: Duplex, { status, error }: { status: number; error: DaemonError }): void {
    const isHalfAnswered = [...this.#responses].some(
      (response) => response.socket === socket && response.headersSent,
    );
    if (!socket.writable || isHalfAnswered) {
      socket.destroy();
      return;
    }
    // After a CONNECT nobody else listens for it.
    socket.on("error", () => socket.destroy());
    const { contentType, text } = jsonAnswer(failureOf(error));
    const head = [
      `HTTP/1.1 ${status} Refused`,
      `content-type: ${contentType}`,
      `content-length: ${Buffer.byteLength(text)}`,
      "connection: close",
    ];
    socket.end(`${head.join("\r\n")}\r\n\r\n${text}`, () => socket.destroy());
  }
}

/** Those without parameters, by method and path. */
const plainRoutes = new Map(ROUTES.map((route) => [`${route.method} ${route.path}`, route]));

function findRoute(
  method: string,
  path: string,
): { readonly route: Route; readonly params: Readonly<Record<string, string>> } {
  const plain = path.includes("{") ? undefined : plainRoutes.get(`${method} ${path}`);
  if (plain !== undefined) return { route: plain, params: {} };
  const there = ROUTES.flatMap((route) => {
    const params = paramsOf(route.path, path);
    return params === undefined ? [] : [{ route, params }];
  });
  const found = there.find(({ route }) => route.method === method);
  if (found !== undefined) return found;
  if (there.length === 0)
    throw new DaemonError({ code: "route_unknown", path: path.slice(0, 200) });
  const allowed = there.map(({ route }) => route.method);
  throw new DaemonError({ code: "method_unsupported", method, path, allowed });
}

/** What stands in `path` for each `{name}` of `pattern`; undefined when it is another path. */
function paramsOf(pattern: string, path: string): Record<string, string> | undefined {
  const wanted = pattern.split("/");
  const given = path.split("/");
  if (wanted.length !== given.length) return undefined;
  const params: Record<string, string> = {};
  for (const [index, part] of wanted.entries()) {
    const text = given[index] ?? "";
    const [, name] = /^\{(.*)\}$/.exec(part) ?? [];
    if (name === undefined) {
      if (part !== text) return undefined;
    } else {
      params[name] = decoded(name, text);
    }
  }
  return params;
}

function decoded(field: string, text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new DaemonError({ code: "request_invalid", field, detail: "it is not percent-encoded" });
  }
}
