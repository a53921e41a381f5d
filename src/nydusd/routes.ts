// SPDX-License-Identifier: Apache-2.0
// nydusd's API, path by path: which methods there are, what each needs, what it answers.

import {
  ENTRY_NOT_FOUND,
  asApiError,
  badRequest,
  failed,
  noCounter,
  noRoute,
  parseFailure,
  unsupported,
} from "./api-error.ts";
import { BackendRefused } from "./backend.ts";
import { checkPaths, parseBindText } from "./bind.ts";
import { isJson } from "./bind-fields.ts";
import { ApiError } from "./api-error.ts";
import { fsidOf } from "./fsid.ts";
import type { ApiAnswer, ApiRequest } from "./http.ts";
import type { Images } from "./images.ts";
import type { Lifecycle } from "./lifecycle.ts";
import {
  type CountedImage,
  backendMetrics,
  blobcacheMetrics,
  counted,
  fsMetrics,
  inflightMetrics,
} from "./metrics.ts";
import { NYDUSD_LOG_LEVELS, type NydusdLogLevel } from "./options.ts";
import type { BlobService } from "./service.ts";

/** What the routes work on; it is there when the rooms are loaded. */
export interface Served {
  readonly service: BlobService;
  readonly images: Images;
  readonly lifecycle: Lifecycle;
}

export interface RouteParts {
  readonly fscacheDir: string;
  /** Resolves when the rooms are loaded. */
  readonly served: Promise<Served>;
  /** What `GET /api/v1/daemon` tells; may wait a little for the state to settle. */
  readonly info: () => Promise<object>;
  readonly setLogLevel: (level: NydusdLogLevel) => void;
  readonly onRefused: (reason: string) => void;
  /** Ends the process; called when the answer to `exit` is on its way. */
  readonly leave: () => void;
}

type Route = (request: ApiRequest, parts: RouteParts) => Promise<ApiAnswer>;

const DONE: ApiAnswer = {};
const CULLABLE = /^[0-9A-Za-z._-]{1,255}$/;

const ROUTES: Readonly<Record<string, Readonly<Record<string, Route>>>> = {
  "/api/v1/daemon": { GET: daemonInfo, PUT: configureDaemon },
  "/api/v2/daemon": { GET: daemonInfo, PUT: configureDaemon },
  "/api/v1/daemon/events": { GET: daemonEvents },
  "/api/v1/daemon/backend": { GET: () => Promise.reject(unsupported("FsBackendInfo")) },
  "/api/v1/daemon/start": { PUT: start },
  "/api/v1/daemon/exit": { PUT: exit },
  "/api/v1/daemon/fuse/sendfd": { PUT: sendFd },
  "/api/v1/daemon/fuse/takeover": { PUT: takeover },
  "/api/v2/blobs": { GET: listBlobs, PUT: bind, DELETE: remove },
  "/api/v1/config": { GET: () => Promise.resolve({ body: {} }), PUT: configure },
  "/api/v1/mount": { POST: noMount, PUT: noMount, DELETE: noMount },
  "/api/v1/metrics": { GET: globalMetrics },
  "/api/v1/metrics/blobcache": { GET: cacheMetrics },
  "/api/v1/metrics/backend": { GET: storageMetrics },
  "/api/v1/metrics/inflight": { GET: readsInFlight },
  "/api/v1/metrics/files": { GET: () => Promise.reject(noCounter("FsFilesMetrics")) },
  "/api/v1/metrics/pattern": { GET: () => Promise.reject(noCounter("FsFilesPatterns")) },
};

const WITH_BODY = new Set(["PUT /api/v2/blobs", "PUT /api/v1/config", "PUT /api/v1/daemon"]);
const ANY_BODY = new Set(["POST /api/v1/mount", "PUT /api/v1/mount", "PUT /api/v2/daemon"]);

/** Answers one request; rejects with an ApiError. */
export function answer(request: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const methods = Object.hasOwn(ROUTES, request.path) ? ROUTES[request.path] : undefined;
  if (methods === undefined) return Promise.reject(noRoute());
  const route = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
  const name = `${request.method} ${request.path}`;
  const fits = ANY_BODY.has(name) || (request.body !== undefined) === WITH_BODY.has(name);
  if (route === undefined || !fits) return Promise.reject(badRequest());
  return route(request, parts);
}

async function daemonInfo(_: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  return { body: await parts.info() };
}

async function configureDaemon({ body }: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const wanted = jsonOf(body ?? "")["log_level"];
  const level = NYDUSD_LOG_LEVELS.find((known) => known === wanted);
  if (level === undefined) throw failed("Configure", "log_level is unknown");
  parts.setLogLevel(level);
  return DONE;
}

function daemonEvents(): Promise<ApiAnswer> {
  const none = { max_errors: 500, total_errors: 0, max_size: 51_200, total_size: 0, errors: [] };
  return Promise.resolve({ body: none });
}

async function start(_: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const { lifecycle } = await parts.served;
  await lifecycle.start().catch((error: unknown) => {
    throw asApiError(error, "Configure");
  });
  return DONE;
}

async function takeover(_: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const { lifecycle } = await parts.served;
  await lifecycle.takeover().catch((error: unknown) => {
    throw asApiError(error, "Upgrade");
  });
  return DONE;
}

async function sendFd(_: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const { lifecycle } = await parts.served;
  await lifecycle.sendFd().catch((error: unknown) => {
    throw asApiError(error, "Upgrade");
  });
  return DONE;
}

/** The next daemon starts right after this answer: ours must have stopped reading by then. */
async function exit(_: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const { lifecycle } = await parts.served;
  await lifecycle.quiesce().catch((error: unknown) => {
    throw asApiError(error, "Configure");
  });
  return { afterwards: parts.leave };
}

/** nydusd has no such list; asked for one it dies. */
function listBlobs({ query }: ApiRequest): Promise<ApiAnswer> {
  return Promise.reject(query.has("domain_id") ? unsupported("GetBlobObjects") : badRequest());
}

async function bind({ body }: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const request = parseBindText(body, parts);
  await checkPaths(request);
  const { lifecycle, images } = await parts.served;
  // The socket's file is taken for readiness, so this may be the very first request.
  await lifecycle.ready;
  await lifecycle
    .inTurn(() => images.put(request))
    .catch((error: unknown) => {
      throw asApiError(error, "CreateBlobObject");
    });
  return DONE;
}

async function remove({ query }: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const domainId = query.get("domain_id");
  const blobId = query.get("blob_id");
  if (domainId === null && blobId === null) throw badRequest();
  const { lifecycle, images, service } = await parts.served;
  await lifecycle.ready;
  if (domainId === null) {
    await cull(service, blobId ?? "");
    return DONE;
  }
  const name = { domainId, ...(blobId === null || blobId === "" ? {} : { fsid: blobId }) };
  const count = await lifecycle
    .inTurn(() => images.remove(name))
    .catch((error: unknown) => {
      throw asApiError(error, "DeleteBlobObject");
    });
  if (count === 0 && "fsid" in name) throw failed("DeleteBlobObject", ENTRY_NOT_FOUND);
  return DONE;
}

async function cull(service: BlobService, key: string): Promise<void> {
  // What cannot be a file of the cache is not there.
  if (!CULLABLE.test(key)) return;
  const outcome = await service.cull(key).catch((error: unknown) => {
    throw asApiError(error, "DeleteBlobFile");
  });
  if (outcome === "in use") throw failed("DeleteBlobFile", "failed to start service, ");
}

async function configure({ body, query }: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const auth = jsonOf(body ?? "")["registry_auth"];
  if (typeof auth !== "string") throw new ApiError(500, "Configure(ResponsePayloadType)");
  const { lifecycle, images } = await parts.served;
  await lifecycle.ready;
  await lifecycle
    .inTurn(async () => {
      const image = imageOf(query.get("id") ?? "", images);
      // An image we do not know yet brings its own credentials when it is bound.
      if (image !== undefined) await images.renew(image.image.fsid, auth);
    })
    .catch((error: unknown) => {
      if (error instanceof BackendRefused) {
        parts.onRefused(error.message);
        throw new ApiError(500, "Configure(ResponsePayloadType)");
      }
      throw asApiError(error, "Configure");
    });
  return DONE;
}

function noMount(): Promise<ApiAnswer> {
  return Promise.reject(unsupported("Mount"));
}

async function globalMetrics({ query }: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const id = query.get("id") ?? "";
  return { body: fsMetrics(id, await countedImages(id, parts, "GlobalMetrics")) };
}

async function cacheMetrics({ query }: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const id = query.get("id") ?? "";
  return { body: blobcacheMetrics(await countedImages(id, parts, "BlobcacheMetrics")) };
}

async function storageMetrics({ query }: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const id = query.get("id") ?? "";
  return { body: backendMetrics(await countedImages(id, parts, "BlobcacheMetrics")) };
}

async function readsInFlight(_: ApiRequest, parts: RouteParts): Promise<ApiAnswer> {
  const { service } = await parts.served;
  return { body: inflightMetrics(service.inflight) };
}

/** The image that `id` names, or all of them without an id. */
async function countedImages(
  id: string,
  parts: RouteParts,
  operation: "BlobcacheMetrics" | "GlobalMetrics",
): Promise<CountedImage[]> {
  const { images, service } = await parts.served;
  if (id === "") return counted(service, images.all);
  const image = imageOf(id, images);
  const found = image === undefined ? [] : counted(service, [image]);
  if (found.length === 0) throw noCounter(operation);
  return found;
}

/** Images are asked for as `FSID`, `/FSID`, and `/snapshotID`. */
function imageOf(id: string, images: Images) {
  const name = id.replace(/^\//, "");
  return images.find(name) ?? images.find(fsidOf(name));
}

function jsonOf(body: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw parseFailure("not valid JSON", body.length);
  }
  if (!isJson(value)) throw parseFailure("invalid type, expected a map", body.length);
  return value;
}
