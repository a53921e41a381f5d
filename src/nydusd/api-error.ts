// SPDX-License-Identifier: Apache-2.0
// How nydusd says no: a status, and `{"code":"UNDEFINED","message":...}` whose text is the name
// of what failed around the cause. Callers show the text; one of them is looked for by name.

import { DaemonError } from "../errors.ts";
import { describeFault } from "../fault-text.ts";

export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;

  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

/** What nydusd calls the operation that failed. */
export type Operation =
  | "BlobcacheMetrics"
  | "Configure"
  | "CreateBlobObject"
  | "DeleteBlobFile"
  | "DeleteBlobObject"
  | "DaemonInfo"
  | "FsBackendInfo"
  | "FsFilesMetrics"
  | "FsFilesPatterns"
  | "GetBlobObjects"
  | "GlobalMetrics"
  | "Mount"
  | "Upgrade";

/** The snapshotter goes on after a removal only when it finds exactly these words. */
export const ENTRY_NOT_FOUND = "blob_cache: cache entry not found";

export function badRequest(): ApiError {
  return new ApiError(400, "BadRequest");
}

export function parseFailure(detail: string, column: number): ApiError {
  return new ApiError(400, `ParseBody(Error(${quoted(detail)}, line: 1, column: ${column}))`);
}

export function noRoute(): ApiError {
  return new ApiError(404, "NoRoute");
}

export function noCounter(operation: Operation): ApiError {
  return new ApiError(404, `${operation}(Metrics(Stats(NoCounter)))`);
}

export function unsupported(operation: Operation): ApiError {
  return new ApiError(501, `${operation}(DaemonAbnormal(Unsupported))`);
}

export function unexpectedEvent(operation: Operation, event: string): ApiError {
  return new ApiError(400, `${operation}(DaemonAbnormal(UnexpectedEvent(${quoted(event)})))`);
}

export function failed(operation: Operation, detail: string, options?: ErrorOptions): ApiError {
  return new ApiError(500, `${operation}(DaemonAbnormal(Other(${quoted(detail)})))`, options);
}

export function takeoverFailed(detail: string, options?: ErrorOptions): ApiError {
  return new ApiError(500, `Upgrade(DaemonAbnormal(UpgradeManager(${quoted(detail)})))`, options);
}

/** Any thrown value as the failure of `operation`. Faults never carry secrets. */
export function asApiError(error: unknown, operation: Operation): ApiError {
  if (error instanceof ApiError) return error;
  return failed(operation, textOf(error), { cause: error });
}

export function textOf(error: unknown): string {
  if (error instanceof DaemonError) return describeFault(error.fault);
  return error instanceof Error ? error.message : String(error);
}

function quoted(text: string): string {
  return JSON.stringify(text);
}
