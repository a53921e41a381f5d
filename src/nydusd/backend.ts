// SPDX-License-Identifier: Apache-2.0
// Where an image's blobs come from: `backend_type` and `backend_config` of a bind body.
// Fields and defaults are those of nydusd 2.4 (storage backend configuration).

import {
  type Json,
  FieldError,
  flagOf,
  numberOf,
  objectOf,
  optionalText,
  textsOf,
} from "./bind-fields.ts";
import type { Backend, RegistryAccess } from "./service.ts";

const TIMEOUT_DEFAULT_SECONDS = 5;
const CHECK_INTERVAL_DEFAULT_SECONDS = 5;

/** A value nydusd answers `BadRequest` for; the reason is for the log, and has no secret. */
export class BackendRefused extends Error {
  override readonly name = "BackendRefused";
}

/** A backend nydusd has and we have not: the caller is told so in a sentence. */
export class BackendNotServed extends Error {
  override readonly name = "BackendNotServed";
}

export function parseBackend(type: string, config: Json): Backend {
  switch (type) {
    case "registry":
      return parseRegistry(config);
    case "localfs":
      return parseLocal(config);
    case "s3":
      needs(config, ["endpoint", "bucket_name", "region"]);
      throw notServed(type);
    case "oss":
      needs(config, ["endpoint", "bucket_name"]);
      throw notServed(type);
    default:
      throw new BackendRefused(`backend type "${type}" is unknown`);
  }
}

/** `user:password` out of base64; undefined when there is nobody to be. */
export function parseAuth(
  auth: string | undefined,
): { username: string; password: string } | undefined {
  const encoded = auth?.trim() ?? "";
  if (encoded === "") return undefined;
  const text = Buffer.from(encoded, "base64").toString("utf8");
  const colon = text.indexOf(":");
  if (colon === -1) throw new BackendRefused("auth is not user:password in base64");
  const [username, password] = [text.slice(0, colon), text.slice(colon + 1)];
  return username === "" && password === "" ? undefined : { username, password };
}

function parseRegistry(config: Json): Backend {
  needs(config, ["host", "repo"]);
  return {
    kind: "registry",
    host: optionalText(config, "host") ?? "",
    repository: optionalText(config, "repo") ?? "",
    access: parseAccess(config),
  };
}

function parseAccess(config: Json): RegistryAccess {
  const scheme = optionalText(config, "scheme") || "https";
  if (scheme !== "http" && scheme !== "https") throw new BackendRefused("scheme is unknown");
  const bearer = optionalText(config, "registry_token") || undefined;
  return {
    scheme,
    credentials: bearer === undefined ? parseAuth(optionalText(config, "auth")) : { bearer },
    skipVerify: flagOf(config, "skip_verify", false),
    caFiles: textsOf(config, "ca_cert_files"),
    connectTimeoutMs: milliseconds(numberOf(config, "connect_timeout", TIMEOUT_DEFAULT_SECONDS)),
    timeoutMs: milliseconds(numberOf(config, "timeout", TIMEOUT_DEFAULT_SECONDS)),
    blobUrlScheme: optionalText(config, "blob_url_scheme") || undefined,
    blobRedirectedHost: optionalText(config, "blob_redirected_host") || undefined,
    proxy: parseProxy(config["proxy"]),
  };
}

/** The snapshotter sends `{"fallback":false}` for no proxy at all: only a url makes one. */
function parseProxy(value: unknown): RegistryAccess["proxy"] {
  if (value === undefined || value === null) return undefined;
  const proxy = objectOf(value, "struct ProxyConfig");
  const url = optionalText(proxy, "url") ?? "";
  const fallback = flagOf(proxy, "fallback", true);
  const interval = numberOf(proxy, "check_interval", CHECK_INTERVAL_DEFAULT_SECONDS);
  if (url === "") return undefined;
  if (!URL.canParse(url)) throw new BackendRefused("proxy.url is no URL");
  return {
    url,
    pingUrl: optionalText(proxy, "ping_url") || undefined,
    fallback,
    checkIntervalMs: interval * 1000,
    useHttp: flagOf(proxy, "use_http", false),
  };
}

function parseLocal(config: Json): Backend {
  const blobFile = optionalText(config, "blob_file") ?? "";
  if (blobFile !== "") return { kind: "file", blobFile };
  const directory = optionalText(config, "dir") ?? "";
  if (directory !== "") return { kind: "directory", directory };
  throw new BackendRefused("localfs has neither dir nor blob_file");
}

/** Zero is no limit. */
function milliseconds(seconds: number): number | undefined {
  return seconds === 0 ? undefined : seconds * 1000;
}

function needs(config: Json, names: readonly string[]): void {
  for (const name of names) {
    let text: string | undefined;
    try {
      text = optionalText(config, name);
    } catch (error) {
      // Inside backend_config nydusd tells no field from another.
      if (error instanceof FieldError) throw new BackendRefused(error.message, { cause: error });
      throw error;
    }
    if (text === undefined || text === "") throw new BackendRefused(`${name} is missing or empty`);
  }
}

function notServed(type: string): BackendNotServed {
  return new BackendNotServed(`the backend "${type}" is not served by erofsd yet`);
}
