// SPDX-License-Identifier: Apache-2.0
// The body of `PUT /api/v2/blobs`: checked in nydusd's order, refused in its words, and turned
// into what the service wants to know. The body itself is kept, secrets and all: it is what goes
// to the supervisor and into the journal.

import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { ApiError, badRequest, failed, parseFailure } from "./api-error.ts";
import { BackendNotServed, BackendRefused, parseBackend } from "./backend.ts";
import {
  FieldError,
  type Json,
  isJson,
  objectOf,
  optionalText,
  requiredFlag,
  requiredNumber,
  requiredText,
  flagOf,
} from "./bind-fields.ts";
import type { ImageBind, PrefetchOptions } from "./service.ts";

export interface BindRequest {
  readonly image: ImageBind;
  /** As it was sent. */
  readonly body: Json;
  /** nydusd wants it to exist; nothing of ours is written there. */
  readonly workDir: string | undefined;
}

export interface BindContext {
  readonly fscacheDir: string;
  /** Why a body was refused, where the answer does not say it. */
  readonly onRefused?: (reason: string) => void;
}

// Linux errno as nydusd's answers spell them.
const EINVAL = "Invalid argument (os error 22)";
const EIO = "Input/output error (os error 5)";
/** The name of a file in the cache, and a word of a mount option. */
const COOKIE = /^[^/,\0]{1,200}$/;

/** The text of a request. Throws an ApiError. */
export function parseBindText(text: string | undefined, context: BindContext): BindRequest {
  if (text === undefined) throw badRequest();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // Without the parser's own message: it quotes the body, and there are secrets in it.
    throw parseFailure("not valid JSON", text.length);
  }
  return parseBindBody(body, context, text.length);
}

/** A body that is JSON already: of a state or a journal. */
export function parseBindBody(value: unknown, context: BindContext, length = 0): BindRequest {
  try {
    return requestOf(objectOf(value, "struct BlobCacheEntry"), context);
  } catch (error) {
    if (error instanceof FieldError) throw parseFailure(error.message, length);
    if (error instanceof BackendNotServed) throw new ApiError(400, `BadRequest: ${error.message}`);
    if (!(error instanceof BackendRefused)) throw error;
    context.onRefused?.(error.message);
    throw badRequest();
  }
}

/** What must be there on disk before an image is taken. Throws an ApiError with status 500. */
export async function checkPaths({ image, workDir }: BindRequest): Promise<void> {
  if (workDir !== undefined) {
    const directory = await stat(workDir).catch(() => undefined);
    if (directory?.isDirectory() !== true) throw failed("CreateBlobObject", EIO);
  }
  // Nothing else is opened: a FIFO would keep whoever does, and all binds after it, for ever.
  const found = await stat(image.bootstrapPath).catch(() => undefined);
  if (found?.isFile() !== true) throw failed("CreateBlobObject", EINVAL);
}

function requestOf(body: Json, { fscacheDir }: BindContext): BindRequest {
  const type = requiredText(body, "type");
  const fsid = requiredText(body, "id");
  const domainId = optionalText(body, "domain_id") || fsid;
  const value = body["config"];
  if (value === undefined || value === null) throw new BackendRefused("there is no config");
  const config = objectOf(value, "struct BlobCacheEntryConfig");
  const backendType = requiredText(config, "backend_type");
  const backendConfig = requiredObject(config, "backend_config");
  const cacheType = requiredText(config, "cache_type");
  const cacheConfig = requiredObject(config, "cache_config");
  const prefetch = prefetchOf(config["prefetch_config"]);
  if (cacheType !== "fscache") throw new BackendRefused(`cache type "${cacheType}" is no fscache`);
  const backend = parseBackend(backendType, backendConfig);
  if (type !== "bootstrap") throw failed("CreateBlobObject", EINVAL);
  if (!COOKIE.test(fsid) || !COOKIE.test(domainId)) throw failed("CreateBlobObject", EINVAL);
  const bootstrapPath = optionalText(config, "metadata_path") ?? "";
  if (!bootstrapPath.startsWith("/")) throw failed("CreateBlobObject", EINVAL);
  return {
    body,
    workDir: optionalText(cacheConfig, "work_dir") || undefined,
    image: {
      fsid,
      domainId,
      bootstrapPath,
      blobMetaDirectories: [dirname(bootstrapPath), fscacheDir],
      backend,
      prefetch,
    },
  };
}

function requiredObject(from: Json, name: string): Json {
  if (!(name in from)) throw new FieldError(`missing field \`${name}\``);
  const value = from[name];
  if (!isJson(value)) throw new BackendRefused(`${name} is no object`);
  return value;
}

/** Absent is off; but there, it is whole. */
function prefetchOf(value: unknown): PrefetchOptions {
  if (value === undefined || value === null)
    return { enabled: false, all: false, bandwidthRate: 0 };
  const prefetch = objectOf(value, "struct BlobPrefetchConfig");
  const enabled = requiredFlag(prefetch, "enable");
  requiredNumber(prefetch, "threads_count");
  requiredNumber(prefetch, "merging_size");
  const bandwidthRate = requiredNumber(prefetch, "bandwidth_rate");
  return { enabled, all: flagOf(prefetch, "prefetch_all", false), bandwidthRate };
}
