// SPDX-License-Identifier: Apache-2.0
// A peer that can do every wrong thing: a raw TCP server on loopback that parses request heads
// and lets the test write the bytes of each answer itself.

import { once } from "node:events";
import { type Socket, createServer } from "node:net";
import { createServer as createTLSServer } from "node:tls";
import { portOf } from "./port.ts";

export interface ScriptedRequest {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  /** As long as Content-Length says. */
  readonly body: string;
  /** Counts all requests of this server, from 0. */
  readonly index: number;
}

export type Respond = (request: ScriptedRequest, socket: Socket) => void;

export interface ScriptedServer {
  /** `127.0.0.1:<port>`. */
  readonly host: string;
  readonly requests: readonly ScriptedRequest[];
  readonly openSockets: ReadonlySet<Socket>;
  /** Calls `run` with each new connection, before anything is read from it. */
  onConnection(run: (socket: Socket) => void): void;
  /** Settles when a connection has ended, whoever ended it. */
  connectionClosed(): Promise<void>;
  close(): Promise<void>;
}

/** PEM texts. */
export interface ServerTLS {
  readonly key: string;
  readonly cert: string;
}

export async function startScriptedServer(
  respond: Respond,
  tls?: ServerTLS,
): Promise<ScriptedServer> {
  const requests: ScriptedRequest[] = [];
  const openSockets = new Set<Socket>();
  let closedWaiters: readonly (() => void)[] = [];
  const serve = (socket: Socket): void => {
    openSockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => {
      openSockets.delete(socket);
      for (const wake of closedWaiters) wake();
      closedWaiters = [];
    });
    let text = "";
    socket.on("data", (piece) => {
      text += piece.toString("latin1");
      for (let end = text.indexOf("\r\n\r\n"); end !== -1; end = text.indexOf("\r\n\r\n")) {
        const head = parseHead(text.slice(0, end), requests.length);
        const bodyEnd = end + 4 + Number(head.headers.get("content-length") ?? 0);
        if (text.length < bodyEnd) return;
        const request = { ...head, body: text.slice(end + 4, bodyEnd) };
        text = text.slice(bodyEnd);
        requests.push(request);
        respond(request, socket);
      }
    });
  };
  const server = tls === undefined ? createServer(serve) : createTLSServer({ ...tls }, serve);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    host: `127.0.0.1:${portOf(server)}`,
    requests,
    openSockets,
    onConnection(run) {
      server.on("connection", run);
    },
    connectionClosed: () =>
      new Promise((resolve) => {
        closedWaiters = [...closedWaiters, resolve];
      }),
    async close() {
      for (const socket of openSockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

function parseHead(text: string, index: number): Omit<ScriptedRequest, "body"> {
  const [start = "", ...lines] = text.split("\r\n");
  const [method = "", path = ""] = start.split(" ");
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
    }),
  );
  return { method, path, headers, index };
}

/** A response as bytes. Content-Length is added unless `headers` has it or says chunked. */
export function response(
  status: number,
  headers: Readonly<Record<string, string>> = {},
  body: Uint8Array = new Uint8Array(),
): Buffer {
  const names = Object.keys(headers).map((name) => name.toLowerCase());
  const hasLength = names.includes("content-length") || names.includes("transfer-encoding");
  const all = hasLength ? headers : { ...headers, "content-length": String(body.length) };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([Buffer.from(`HTTP/1.1 ${status} X\r\n${lines.join("")}\r\n`), body]);
}

/** The extent a Range header asks for. */
export function askedRange(request: ScriptedRequest): { offset: number; length: number } {
  const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
  if (match === null) throw new Error("not a range request");
  const offset = Number(match[1]);
  return { offset, length: Number(match[2]) - offset + 1 };
}

/** The right answer to a range request. */
export function rightAnswer(request: ScriptedRequest, content: Uint8Array): Buffer {
  const { offset, length } = askedRange(request);
  const range = `bytes ${offset}-${offset + length - 1}/${content.length}`;
  return response(206, { "content-range": range }, content.subarray(offset, offset + length));
}
