// SPDX-License-Identifier: Apache-2.0
// The API socket: HTTP as nydusd speaks it. Two things decide over life and death here.
//
// The snapshotter keeps one connection on which it never says anything: while that stands, the
// daemon lives. So nothing may ever time out, and nothing shuts a connection down before the
// process ends: each half of a shutdown would be counted as a death of its own.
// And the file of the socket is taken for readiness, so it appears as early as can be.

import { lstatSync, mkdirSync, unlinkSync } from "node:fs";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { dirname } from "node:path";
import { ApiError } from "./api-error.ts";
import type { Log } from "../platform/log.ts";
import { isAnswered, listenPrivately } from "../platform/private-socket.ts";

/** nydusd's own limit; what it answers beyond has another shape. */
export const BODY_BYTES_MAX = 51_200;
/** An oversized body is read to its end up to here, so that the answer can be read. */
const DRAIN_BYTES_MAX = 8 * 1024 * 1024;
const METHODS = new Set(["GET", "PUT", "POST", "DELETE", "PATCH"]);

export interface ApiRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  /** undefined when there is none. */
  readonly body: string | undefined;
}

export interface ApiAnswer {
  /** Sent as JSON with status 200; without one the status is 204. */
  readonly body?: object;
  /** Called when the answer is on its way. */
  readonly afterwards?: () => void;
}

export type Respond = (request: ApiRequest) => Promise<ApiAnswer>;

export class ApiServer {
  readonly #server: Server;
  readonly #socketPath: string;
  readonly #log: Log;
  #inode: number | undefined;
  #connections = 0;

  constructor(parts: { socketPath: string; respond: Respond; log: Log }) {
    this.#socketPath = parts.socketPath;
    this.#log = parts.log;
    this.#server = createServer((request, response) => {
      this.#serve(request, response, parts.respond).catch((error: unknown) => {
        this.#log.warn({ err: error, url: request.url }, "an API connection failed");
        response.destroy();
      });
    });
    this.#server.headersTimeout = 0;
    this.#server.requestTimeout = 0;
    this.#server.keepAliveTimeout = 0;
    this.#server.timeout = 0;
    this.#server.on("connection", (socket) => {
      this.#connections += 1;
      socket.once("close", () => {
        this.#connections -= 1;
      });
    });
    this.#server.on("clientError", (_error, socket) => {
      if (socket.writable)
        socket.end("HTTP/1.1 400 \r\nServer: Nydus API\r\nContent-Length: 0\r\n\r\n");
      else socket.destroy();
    });
  }

  /**
   * Listens. A file that a dead daemon left is replaced, and then `foundStale` is true; one that
   * somebody answers at only with `replaceLive`.
   */
  async listen(options: { replaceLive: boolean }): Promise<{ foundStale: boolean }> {
    const path = this.#socketPath;
    mkdirSync(dirname(path), { recursive: true });
    const found = lstatSync(path, { throwIfNoEntry: false });
    if (found !== undefined) {
      if (!found.isSocket()) throw new Error(`--apisock: ${path} exists and is no socket`);
      if (!options.replaceLive && (await isAnswered(path))) {
        throw new Error(`--apisock: a running daemon answers at ${path}`);
      }
      unlinkSync(path);
    }
    await listenPrivately(this.#server, path);
    this.#inode = lstatSync(path).ino;
    return { foundStale: found !== undefined };
  }

  /** Open ones: also that of a snapshotter that only wants to see it break. */
  get connections(): number {
    return this.#connections;
  }

  /** Each is 0, which is never; here for a test to see. */
  get timeouts(): readonly number[] {
    const { headersTimeout, requestTimeout, keepAliveTimeout, timeout } = this.#server;
    return [headersTimeout, requestTimeout, keepAliveTimeout, timeout];
  }

  /** Removes the socket's file, unless it is another daemon's by now. Connections stay as they are. */
  removeFile(): void {
    const found = lstatSync(this.#socketPath, { throwIfNoEntry: false });
    if (this.#inode === undefined || found?.ino !== this.#inode) return;
    unlinkSync(this.#socketPath);
  }

  /** Closes everything; for tests, a daemon just ends. */
  close(): Promise<void> {
    this.#server.closeAllConnections();
    return new Promise((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
  }

  async #serve(
    request: IncomingMessage,
    response: ServerResponse,
    respond: Respond,
  ): Promise<void> {
    const body = await readBody(request);
    if (body instanceof TooLong) {
      // A size that was not announced could not be read to its end: no further request then.
      send(request, response, { status: 400, body: { error: body.text } });
      if (!body.isDrained) request.socket.destroySoon();
      return;
    }
    const url = new URL(request.url ?? "/", "http://nydusd");
    const method = request.method ?? "GET";
    try {
      if (!METHODS.has(method)) throw new ApiError(405, "BadRequest");
      const asked = { method, path: url.pathname, query: url.searchParams, body };
      const answer = await respond(asked);
      if (answer.afterwards !== undefined) response.once("finish", answer.afterwards);
      send(request, response, { status: answer.body === undefined ? 204 : 200, body: answer.body });
      this.#log.debug({ method, path: url.pathname }, "API request served");
    } catch (error) {
      const { status, message } =
        error instanceof ApiError ? error : new ApiError(500, `Unexpected(${String(error)})`);
      const level = status === 404 ? "debug" : "warn";
      this.#log[level]({ method, path: url.pathname, status }, `API request refused: ${message}`);
      send(request, response, { status, body: { code: "UNDEFINED", message } });
    }
  }
}

class TooLong {
  readonly text: string;
  readonly isDrained: boolean;

  constructor(bytes: number, isDrained: boolean) {
    this.text = `Request payload with size ${bytes} is larger than the limit of ${BODY_BYTES_MAX} allowed by server.\nAll previous unanswered requests will be dropped.`;
    this.isDrained = isDrained;
  }
}

/** The body's text, undefined when it is empty. */
async function readBody(request: IncomingMessage): Promise<string | TooLong | undefined> {
  const announced = Number(request.headers["content-length"] ?? 0);
  if (announced > DRAIN_BYTES_MAX) return new TooLong(announced, false);
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes <= BODY_BYTES_MAX) pieces.push(piece);
    if (bytes > DRAIN_BYTES_MAX) return new TooLong(bytes, false);
  }
  if (bytes > BODY_BYTES_MAX) return new TooLong(bytes, true);
  return bytes === 0 ? undefined : Buffer.concat(pieces).toString("utf8");
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  { status, body }: { status: number; body: object | undefined },
): void {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const asksClose = request.headers.connection?.toLowerCase() === "close";
  response.sendDate = false;
  response.writeHead(status, "", {
    Server: "Nydus API",
    Connection: asksClose ? "close" : "keep-alive",
    ...(text === undefined
      ? {}
      : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) }),
  });
  response.end(text);
}
