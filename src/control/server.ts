// SPDX-License-Identifier: Apache-2.0
// The control socket: HTTP on a unix socket, mode 0600. Reads are GET, acts are POST.
// Limits: 64 KiB a body, 64 connections, 10 s for a request to arrive.

import { once } from "node:events";
import { lstat, mkdir, unlink } from "node:fs/promises";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { dirname } from "node:path";
import * as z from "zod";
import { DaemonError, asDaemonError } from "../errors.ts";
import type { Log } from "../platform/log.ts";
import { isAnswered, listenPrivately } from "../platform/private-socket.ts";
import {
  type DropCredentials,
  type PastFailure,
  type PushCredentials,
  type RegisteredImage,
  type Status,
  type TraceWish,
  dropCredentials,
  pushCredentials,
  registerRequest,
  traceWish,
} from "./schema.ts";

const BODY_BYTES_MAX = 64 * 1024;
const CONNECTIONS_MAX = 64;
const REQUEST_TIMEOUT_MS = 10_000;

/** What the daemon can be asked; each method may reject with a DaemonError. */
export interface ControlOperations {
  register(request: z.infer<typeof registerRequest>, signal: AbortSignal): Promise<RegisteredImage>;
  lastFailure(cookieKey: string): PastFailure;
  status(): Status;
  /** In Prometheus' text format. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  pushCredentials(request: PushCredentials): void;
  /** False when there were none. */
  dropCredentials(request: DropCredentials): boolean;
  /** Lines of JSON as they come, until they end or `signal` aborts. */
  trace(wish: TraceWish, signal: AbortSignal): AsyncIterable<string>;
}

interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly text: string | AsyncIterable<string>;
}

export class ControlServer {
  readonly #server: Server;
  readonly #socketPath: string;

  constructor(parts: { socketPath: string; operations: ControlOperations; log: Log }) {
    this.#socketPath = parts.socketPath;
    this.#server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
      const gone = goneSignal(response);
      answer(request, parts.operations, gone)
        .then((answered) => send(response, answered, gone))
        .catch((error: unknown) => {
          const fault = asDaemonError(error);
          const { code } = fault.fault;
          const { method, url } = request;
          parts.log.debug({ code, method, url }, `control request failed: ${fault.message}`);
          const failure = { code, message: fault.message, hint: fault.policy.hint };
          if (response.headersSent) response.destroy();
          else void send(response, json(statusOf(fault), { error: failure }), gone);
        });
    });
    this.#server.maxConnections = CONNECTIONS_MAX;
  }

  /** Listens; a socket left by a dead daemon is replaced. Faults: socket_in_use, syscall_failed. */
  async listen(): Promise<void> {
    const path = this.#socketPath;
    await mkdir(dirname(path), { recursive: true, mode: 0o755 });
    await refuseOtherFiles(path);
    if (await isAnswered(path)) throw new DaemonError({ code: "socket_in_use", socketPath: path });
    await unlink(path).catch((error: unknown) => {
      if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    });
    await listenPrivately(this.#server, path);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
  }
}

async function answer(
  request: IncomingMessage,
  operations: ControlOperations,
  gone: AbortSignal,
): Promise<Answer> {
  const url = new URL(request.url ?? "/", "http://erofsd");
  const route = `${request.method} ${url.pathname}`;
  switch (route) {
    case "GET /v1/status":
      return json(200, operations.status());
    case "GET /v1/metrics":
      return { status: 200, ...(await operations.metrics()) };
    case "GET /v1/failures": {
      const key = url.searchParams.get("key");
      if (key === null) throw invalid("key", "the query names no key");
      return json(200, { failure: operations.lastFailure(key) });
    }
    case "POST /v1/images": {
      const body = parseBody(registerRequest, await readBody(request));
      return json(200, await operations.register(body, gone));
    }
    case "GET /v1/trace": {
      const seconds = url.searchParams.get("seconds") ?? undefined;
      const wish = checked(traceWish, { seconds, keys: url.searchParams.getAll("key") });
      const text = operations.trace(wish, gone);
      return { status: 200, contentType: "application/x-ndjson", text };
    }
    case "POST /v1/credentials":
      operations.pushCredentials(parseBody(pushCredentials, await readBody(request)));
      return json(200, {});
    case "DELETE /v1/credentials": {
      const asked = checked(dropCredentials, Object.fromEntries(url.searchParams));
      return json(200, { deleted: operations.dropCredentials(asked) });
    }
    default:
      throw invalid(route, "no such operation");
  }
}

/** Aborts when whoever asked is gone, or has its answer. */
function goneSignal(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  response.once("close", () => {
    gone.abort();
  });
  return gone.signal;
}

function parseBody<T>(schema: z.ZodType<T>, text: string): T {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The reason would quote the text, which may be a password.
    throw invalid("body", "it is not JSON");
  }
  return checked(schema, json);
}

function checked<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw invalid(issue?.path.map(String).join(".") || "body", issue?.message ?? "not as expected");
}

async function readBody(request: IncomingMessage): Promise<string> {
  request.setEncoding("utf8");
  let text = "";
  let isTooLong = false;
  // Read to its end in any case: a connection left half read could not carry the answer.
  for await (const piece of request) {
    const more = String(piece);
    isTooLong ||= text.length + more.length > BODY_BYTES_MAX;
    if (!isTooLong) text += more;
  }
  if (isTooLong) throw invalid("body", `longer than ${BODY_BYTES_MAX} bytes`);
  return text;
}

function json(status: number, body: object): Answer {
  return { status, contentType: "application/json", text: `${JSON.stringify(body)}\n` };
}

async function send(response: ServerResponse, answered: Answer, gone: AbortSignal): Promise<void> {
  const { status, contentType, text } = answered;
  response.writeHead(status, { "content-type": contentType });
  if (typeof text === "string") {
    response.end(text);
    return;
  }
  for await (const piece of text) {
    if (gone.aborted) return;
    if (!response.write(piece)) await once(response, "drain", { signal: gone });
  }
  response.end();
}

function statusOf(error: DaemonError): number {
  switch (error.policy.exitCode) {
    case 2:
      return 400;
    case 4:
      return 502;
    case 5:
      return 422;
    default:
      return 500;
  }
}

function invalid(field: string, detail: string): DaemonError {
  return new DaemonError({ code: "request_invalid", field, detail });
}

/** Only a socket is ever replaced: a mistyped control.socket must not cost a file. */
async function refuseOtherFiles(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined || found.isSocket()) return;
  const detail = `control.socket: ${path} exists and is no socket`;
  throw new DaemonError({ code: "config_invalid", where: "control", detail });
}
