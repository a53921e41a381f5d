// SPDX-License-Identifier: Apache-2.0
// The recording of nydus-snapshotter with nydusd, and what erofsd-nydusd must answer to the same
// requests: the same status and body as far as they are nydusd's promise, and where nydusd's own
// answer is a fault, what mends it. Free of test libraries: runs on the host and in a guest.

import { readFileSync } from "node:fs";
import { type Json, isJson } from "../../src/nydusd/bind-fields.ts";
import { findPackageRoot } from "../../src/platform/package-root.ts";

export interface RecordedRequest {
  readonly method: string;
  readonly path: string;
  readonly query: string | null;
  readonly body: unknown;
}

export interface Exchange {
  readonly request: RecordedRequest;
  readonly response: { readonly status: number; readonly body: unknown };
}

export interface Entry {
  readonly n: number;
  readonly scenario: string;
  readonly phase: string;
  readonly channel: string;
  readonly daemon: string;
  /** Every other field. */
  readonly rest: Json;
  readonly exchange: Exchange | undefined;
}

export interface Answer {
  readonly status: number;
  /** Parsed; undefined when there is none. */
  readonly body: unknown;
}

/** The recording, with these names in place of `$ROOT` and the like. */
export function readRecording(names: Readonly<Record<string, string>>): Entry[] {
  const file = new URL("test/fixtures/nydusd/transcript.jsonl", findPackageRoot());
  let text = readFileSync(file, "utf8");
  for (const [name, value] of Object.entries(names)) text = text.replaceAll(name, value);
  return text
    .split("\n")
    .filter((line) => line !== "")
    .flatMap((line) => {
      const value: unknown = JSON.parse(line);
      return isJson(value) && "channel" in value ? [entryOf(value)] : [];
    });
}

function entryOf(rest: Json): Entry {
  const text = (name: string): string => {
    const value = rest[name];
    return typeof value === "string" ? value : "";
  };
  const [channel, daemon] = [text("channel"), text("daemon")];
  const exchange = channel === "api" ? exchangeOf(rest) : undefined;
  return {
    n: Number(rest["n"]),
    scenario: text("scenario"),
    phase: text("phase"),
    channel,
    daemon,
    rest,
    exchange,
  };
}

function exchangeOf({ request, response }: Json): Exchange | undefined {
  if (!isJson(request) || !isJson(response) || request["query"] === undefined) return undefined;
  const query = request["query"];
  return {
    request: {
      method: String(request["method"]),
      path: String(request["path"]),
      query: typeof query === "string" ? query : null,
      body: request["body"] ?? undefined,
    },
    response: { status: Number(response["status"]), body: response["body"] ?? undefined },
  };
}

/** The image's names that the answers depend on. */
export interface Known {
  /** Bound at this moment. */
  readonly isBound: (fsid: string) => boolean;
  readonly fsidOf: (snapshotId: string) => string;
}

/** Undefined when the answer is right; else what is wrong with it. */
export function compare(exchange: Exchange, actual: Answer, known: Known): string | undefined {
  const expected = expectedOf(exchange, known);
  const problem =
    actual.status === expected.status ? bodyProblem(expected.body, actual.body) : "another status";
  if (problem === undefined) return undefined;
  return `${problem}: ${JSON.stringify(actual)}, expected ${JSON.stringify(expected)}`;
}

/** nydusd's answer, or the better one. */
function expectedOf({ request, response }: Exchange, known: Known): Answer {
  const message = messageOf(response.body);
  // nydusd's snapshotter binds all images again after an upgrade, and gives up over this.
  if (message.includes("bootstrap blob already exists")) return { status: 204, body: undefined };
  // These words are what the snapshotter looks for; nydusd loses them.
  if (message.startsWith("DeleteBlobObject(")) {
    const text = 'DeleteBlobObject(DaemonAbnormal(Other("blob_cache: cache entry not found")))';
    return { status: 500, body: { code: "UNDEFINED", message: text } };
  }
  // Numbers where nydusd has none.
  if (request.path === "/api/v1/metrics") return { status: 200, body: { data_read: 0 } };
  if (request.path === "/api/v1/metrics/inflight") return { status: 200, body: [] };
  if (request.path === "/api/v1/metrics/blobcache" && request.query !== null) {
    const id = (new URLSearchParams(request.query).get("id") ?? "").replace(/^\//, "");
    const isBound = known.isBound(id) || known.isBound(known.fsidOf(id));
    if (isBound) return { status: 200, body: { underlying_files: [], data_all_ready: false } };
    const none = "BlobcacheMetrics(Metrics(Stats(NoCounter)))";
    return { status: 404, body: { code: "UNDEFINED", message: none } };
  }
  // A backend we do not have, refused at once instead of at the first read.
  if (backendOf(request.body) === "oss") {
    return { status: 400, body: { code: "UNDEFINED", message: "BadRequest: " } };
  }
  return response;
}

function bodyProblem(expected: unknown, actual: unknown): string | undefined {
  if (expected === undefined) return actual === undefined ? undefined : "a body";
  if (typeof expected === "string") {
    // Not JSON, though it says so: a line break inside.
    return isJson(actual) && "error" in actual ? undefined : "another error";
  }
  if (!isJson(expected)) return Array.isArray(actual) ? undefined : "no list";
  if (!isJson(actual)) return "no object";
  const wanted = messageOf(expected);
  if (wanted !== "") {
    const got = messageOf(actual);
    return got.startsWith(promisedPart(wanted)) ? undefined : "another message";
  }
  const missing = Object.keys(expected).filter((key) => !(key in actual));
  if (missing.length > 0) return `fields missing (${missing.join()})`;
  for (const key of ["state", "id", "supervisor", "store_path"]) {
    if (key in expected && expected[key] !== actual[key]) return `another ${key}`;
  }
  return undefined;
}

/** Without what only nydusd's own parser and file reader can say. */
function promisedPart(message: string): string {
  if (message.includes("missing field")) return message.slice(0, message.indexOf(", line:"));
  if (message.startsWith("ParseBody(")) return "ParseBody(Error(";
  if (message.includes("failed to fill whole buffer"))
    return "CreateBlobObject(DaemonAbnormal(Other(";
  return message;
}

function messageOf(body: unknown): string {
  const message = isJson(body) ? body["message"] : undefined;
  return typeof message === "string" ? message : "";
}

function backendOf(body: unknown): unknown {
  const config = isJson(body) ? body["config"] : undefined;
  return isJson(config) ? config["backend_type"] : undefined;
}
