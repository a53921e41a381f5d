// SPDX-License-Identifier: Apache-2.0
// HTTP and socket failures as faults: the one place where status codes and system error codes
// become ours. No URL with a query string ever gets into a fault: it may be signed.

import { DaemonError, type Fault } from "../../errors.ts";

const UNREACHABLE: Readonly<Record<string, string>> = {
  ENOTFOUND: "the host name does not resolve",
  EAI_AGAIN: "the host name does not resolve now (DNS server)",
  ECONNREFUSED: "connection refused",
  ECONNRESET: "the connection was reset",
  EHOSTUNREACH: "no route to the host",
  ENETUNREACH: "no route to the network",
  EPIPE: "the connection broke",
  UND_ERR_SOCKET: "the connection was closed",
  UND_ERR_CLOSED: "the connection was closed",
  UND_ERR_DESTROYED: "the connection was closed",
};

const TIMED_OUT: Readonly<Record<string, string>> = {
  UND_ERR_CONNECT_TIMEOUT: "no connection in time",
  UND_ERR_HEADERS_TIMEOUT: "no response in time",
  UND_ERR_BODY_TIMEOUT: "the response stopped",
  ETIMEDOUT: "no connection in time",
};

const PROTOCOL: Readonly<Record<string, string>> = {
  UND_ERR_HEADERS_OVERFLOW: "the response's headers are too large",
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: "the body is not as long as Content-Length says",
  UND_ERR_RES_EXCEEDED_MAX_SIZE: "the response is too large",
};

const TLS = /^(?:ERR_TLS_|ERR_SSL_|CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|HOSTNAME_MISMATCH)/;

/** An error of the HTTP client, met while talking to `host`. One of ours is returned as it is. */
export function transportFault(error: unknown, host: string): DaemonError {
  if (error instanceof DaemonError) return error;
  const fault = describeTransport(error, host);
  // The parser's error carries what it could not parse, which may be anything.
  return new DaemonError(fault, isParserError(error) ? undefined : { cause: error });
}

function describeTransport(error: unknown, host: string): Fault {
  const code = errorCode(error);
  const message = error instanceof Error ? error.message : String(error);
  if (TLS.test(code) || code === "EPROTO") {
    return { code: "registry_unreachable", host, detail: `TLS failed: ${firstLine(message)}` };
  }
  if (isParserError(error)) {
    return { code: "registry_protocol", host, detail: `not HTTP/1.1: ${firstLine(message)}` };
  }
  const late = own(TIMED_OUT, code);
  if (late !== undefined) return { code: "registry_timeout", host, detail: late };
  const protocol = own(PROTOCOL, code);
  if (protocol !== undefined) return { code: "registry_protocol", host, detail: protocol };
  const detail = own(UNREACHABLE, code) ?? firstLine(message);
  return {
    code: "registry_unreachable",
    host,
    detail: code === "" ? detail : `${detail} (${code})`,
  };
}

export interface StatusContext {
  readonly host: string;
  readonly repository: string;
  readonly status: number;
  readonly retryAfterMs: number | undefined;
  /** What the request was for, without a query: `blob sha256:...`. */
  readonly what: string;
  /** The fault for a 404. */
  readonly notFound: Fault;
}

/** A response with another status than those the request is about. */
export function statusFault(context: StatusContext): DaemonError {
  const { host, repository, status, retryAfterMs, what, notFound } = context;
  switch (status) {
    case 401:
    case 403:
      return new DaemonError({ code: "registry_unauthorized", host, repository, status });
    case 404:
    case 410:
      return new DaemonError(notFound);
    case 408:
      return new DaemonError({ code: "registry_timeout", host, detail: "it answers HTTP 408" });
    case 429:
      return new DaemonError({ code: "registry_throttled", host, retryAfterMs });
    default:
      return new DaemonError({ code: "registry_failed", host, status, detail: what });
  }
}

function isParserError(error: unknown): boolean {
  return error instanceof Error && error.name === "HTTPParserError";
}

function errorCode(error: unknown): string {
  if (typeof error !== "object" || error === null || !("code" in error)) return "";
  return typeof error.code === "string" ? error.code : "";
}

function own(table: Readonly<Record<string, string>>, code: string): string | undefined {
  return Object.hasOwn(table, code) ? table[code] : undefined;
}

function firstLine(message: string): string {
  return (message.split("\n")[0] ?? "").slice(0, 200);
}
