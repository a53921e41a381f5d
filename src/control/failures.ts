// SPDX-License-Identifier: Apache-2.0
// Failures as the control socket tells them: one shape, and an HTTP status by kind.

import { type Code, DaemonError } from "../errors.ts";
import type { Failure } from "./schema.ts";

/** `error` as every answer that is not 200 has it. */
export function failureOf(error: DaemonError): Failure {
  const { fault, message, policy } = error;
  const { hint } = policy;
  const field = "field" in fault ? { field: fault.field } : {};
  return { code: fault.code, message, ...field, ...(hint === "" ? {} : { hint }) };
}

/** Where the kind of a failure does not say enough. */
const STATUS: Partial<Record<Code, number>> = {
  token_refused: 401,
  peer_refused: 403,
  route_unknown: 404,
  image_unknown: 404,
  mount_unknown: 404,
  mount_busy: 409,
  door_closed: 409,
  prefetch_unknown: 404,
  image_in_use: 409,
  method_unsupported: 405,
  request_slow: 408,
  request_too_large: 413,
  daemon_busy: 503,
  daemon_not_ready: 503,
  stopping: 503,
};

/** The status that `error` is answered with; the code in the body says more. */
export function statusOf({ fault, policy }: DaemonError): number {
  return STATUS[fault.code] ?? statusOfKind(policy.exitCode);
}

function statusOfKind(exitCode: number): number {
  switch (exitCode) {
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

/** What Node's HTTP parser refused, as `clientError` gives it. */
export function parserFailure(
  error: NodeJS.ErrnoException,
  timeoutMs: number,
): { status: number; error: DaemonError } {
  if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") {
    return { status: 408, error: new DaemonError({ code: "request_slow", timeoutMs }) };
  }
  if (error.code === "HPE_HEADER_OVERFLOW") {
    const fault = {
      code: "request_too_large",
      field: "headers",
      bytesMax: HEADER_BYTES_MAX,
    } as const;
    return { status: 431, error: new DaemonError(fault) };
  }
  const detail = `it is not HTTP/1.1 (${error.code ?? error.message})`;
  const fault = { code: "request_invalid", field: "request", detail } as const;
  return { status: 400, error: new DaemonError(fault) };
}

/** Node's default (http.maxHeaderSize). */
const HEADER_BYTES_MAX = 16 * 1024;
