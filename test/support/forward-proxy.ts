// SPDX-License-Identifier: Apache-2.0
// An HTTP proxy that really forwards to where the absolute-form request says, and can be told to
// do so as a peer does that stalls, lies, dies or fails.

import { once } from "node:events";
import { type IncomingMessage, type ServerResponse, createServer, request } from "node:http";
import { portOf } from "./port.ts";

export type ProxyManner =
  | "healthy"
  /** Sends half of each body, then nothing, and keeps the connection. */
  | "stalling"
  /** Sends half of each body, then breaks the connection. */
  | "dying"
  /** Says that all is well, and sends nothing (what Dragonfly does when it cannot deliver). */
  | "error-as-200"
  /** The right bytes under another Content-Range. */
  | "wrong-range"
  /** Everything right, but the first byte. */
  | "wrong-bytes";

export interface ForwardProxy {
  /** `http://127.0.0.1:<port>`. */
  readonly url: string;
  manner: ProxyManner;
  /** Requests, so far. */
  readonly asked: number;
  /** Of the last one; names in lower case. */
  readonly lastHeaders: IncomingMessage["headers"];
  close(): Promise<void>;
}

export async function startForwardProxy(manner: ProxyManner = "healthy"): Promise<ForwardProxy> {
  let asked = 0;
  let lastHeaders: IncomingMessage["headers"] = {};
  const server = createServer((incoming, outgoing) => {
    asked += 1;
    lastHeaders = incoming.headers;
    outgoing.on("error", () => undefined);
    answer(proxy.manner, incoming, outgoing);
  });
  const proxy = {
    url: "",
    manner,
    get asked() {
      return asked;
    },
    get lastHeaders() {
      return lastHeaders;
    },
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  proxy.url = `http://127.0.0.1:${portOf(server)}`;
  return proxy;
}

function answer(manner: ProxyManner, incoming: IncomingMessage, outgoing: ServerResponse): void {
  if (manner === "error-as-200") {
    outgoing.writeHead(200, { "x-dragonfly-error-type": "backend", "content-length": "0" }).end();
  } else {
    forward(manner, incoming, outgoing);
  }
}

function forward(manner: ProxyManner, incoming: IncomingMessage, outgoing: ServerResponse): void {
  const url = new URL(incoming.url ?? "");
  const { method, headers } = incoming;
  const onward = request(url, { method, headers }, (response) => {
    const pieces: Buffer[] = [];
    response.on("data", (piece: Buffer) => pieces.push(piece));
    response.once("end", () => {
      const status = response.statusCode ?? 502;
      send(manner, outgoing, { status, headers: response.headers }, Buffer.concat(pieces));
    });
  });
  onward.once("error", () => outgoing.writeHead(502).end());
  onward.end();
}

function send(
  manner: ProxyManner,
  outgoing: ServerResponse,
  head: { status: number; headers: IncomingMessage["headers"] },
  body: Buffer,
): void {
  const range = head.headers["content-range"]?.replace(/^bytes (\d+)/, (_, first: string) => {
    return `bytes ${manner === "wrong-range" ? Number(first) + 1 : first}`;
  });
  outgoing.writeHead(head.status, { ...head.headers, ...(range && { "content-range": range }) });
  const half = body.subarray(0, body.length / 2);
  if (manner === "stalling") {
    outgoing.write(half);
  } else if (manner === "dying") {
    outgoing.write(half, () => outgoing.destroy());
  } else {
    if (manner === "wrong-bytes" && body.length > 0) body.writeUInt8(body.readUInt8(0) ^ 1, 0);
    outgoing.end(body);
  }
}
