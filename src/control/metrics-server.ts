// SPDX-License-Identifier: Apache-2.0
// Metrics, and nothing else, on a loopback TCP port: for a Prometheus that cannot ask a unix socket.
// Whoever is on this machine may read them; there is nothing in them that may not be read.

import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import type { ListenAddress } from "../config/listen-address.ts";
import { listenAtAddress } from "./tcp-listening.ts";

const PATH = "/metrics";
const CONNECTIONS_MAX = 16;
const TIMEOUT_MS = 5000;
const IDLE_MS = 60_000;
/** So many scrapes at once; more are answered 503. */
const SCRAPES_MAX = 4;

export interface MetricsServer {
  /** Where it listens: of port 0, the one that it got. */
  readonly address: ListenAddress;
  close(): Promise<void>;
}

/** Fault: config_invalid when it cannot listen there. */
export async function serveMetrics(
  address: ListenAddress,
  read: () => Promise<{ readonly contentType: string; readonly text: string }>,
): Promise<MetricsServer> {
  let scrapes = 0;
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    request.resume();
    const { method = "", url = "" } = request;
    if (url.split("?")[0] !== PATH) return sayText(response, 404, `only ${PATH} is here\n`);
    if (method !== "GET" && method !== "HEAD") {
      response.setHeader("allow", "GET, HEAD");
      return sayText(response, 405, "only GET\n");
    }
    if (scrapes >= SCRAPES_MAX) return sayText(response, 503, "busy\n");
    scrapes += 1;
    try {
      const { contentType, text } = await read();
      response.writeHead(200, { "content-type": contentType });
      response.end(text);
    } catch {
      sayText(response, 500, "failed\n");
    } finally {
      scrapes -= 1;
    }
  };
  const timeouts = { headersTimeout: TIMEOUT_MS, requestTimeout: TIMEOUT_MS };
  const server = createServer({ ...timeouts, keepAliveTimeout: IDLE_MS }, (request, response) => {
    void answer(request, response);
  });
  server.maxConnections = CONNECTIONS_MAX;
  return {
    address: await listenAtAddress(server, address, "metrics.listen"),
    close: async () => {
      const closed = new Promise<void>((resolve) => {
        server.close(() => {
          resolve();
        });
      });
      server.closeAllConnections();
      await closed;
    },
  };
}

function sayText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8" });
  response.end(text);
}
