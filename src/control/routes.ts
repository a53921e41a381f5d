// SPDX-License-Identifier: Apache-2.0
// Every operation of the control socket. GET reads, POST and DELETE act.

import * as z from "zod";
import { configView } from "../config/config-view.ts";
import { packageVersion } from "../platform/package-root.ts";
import { activityAnswer } from "./activity-schema.ts";
import { imageHistory } from "./history-schema.ts";
import { cacheAnswer, imageDetail, imageName, imagesAnswer } from "./image-schema.ts";
import { changeConfig, pruneRequest, prunedAnswer, removedImage } from "./cache-schema.ts";
import {
  madeMount,
  mountName,
  mountRequest,
  mountsAnswer,
  unmountQuery,
  unmounted,
} from "./mount-schema.ts";
import { prefetchRoutes } from "./prefetch-routes.ts";
import { type Route, TAKES_NOTHING, jsonRoute, textRoute, writtenRoute } from "./route.ts";
import {
  dropCredentials,
  droppedAnswer,
  failureAnswer,
  failureQuery,
  healthAnswer,
  pushCredentials,
  pushedAnswer,
  readyAnswer,
  registerRequest,
  registeredImage,
  statusAnswer,
  traceQuery,
  upgradeAnswer,
} from "./schema.ts";

const get = (path: string, id: string, summary: string) => {
  return { method: "GET", path, id, summary } as const;
};

const daemonRoutes: readonly Route[] = [
  jsonRoute(
    get("/v1/health", "getHealth", "that the daemon answers at all"),
    TAKES_NOTHING,
    healthAnswer,
    (operations) => operations.health(),
  ),
  jsonRoute(
    get("/v1/ready", "getReady", "200 while mounts and reads are served, else 503"),
    TAKES_NOTHING,
    readyAnswer,
    (operations) => {
      operations.checkReady();
      return { ready: true as const };
    },
  ),
  jsonRoute(
    get("/v1/status", "getStatus", "counters and open objects"),
    TAKES_NOTHING,
    statusAnswer,
    (operations) => operations.status(),
  ),
  jsonRoute(
    get("/v1/activity", "getActivity", "what readers are about: sums, what waits, what was slow"),
    TAKES_NOTHING,
    activityAnswer,
    (operations) => operations.activity(),
  ),
  jsonRoute(
    get("/v1/config", "getConfig", "the configuration in use, without secrets"),
    TAKES_NOTHING,
    configView,
    (operations) => operations.config(),
  ),
  textRoute(
    {
      ...get("/v1/metrics", "getMetrics", "metrics in Prometheus' text format"),
      contentType: "text/plain",
    },
    TAKES_NOTHING,
    (operations) => operations.metrics(),
  ),
  jsonRoute(
    get("/v1/cache", "getCache", "what the cache takes of its filesystem"),
    TAKES_NOTHING,
    cacheAnswer,
    (operations) => operations.cacheUsage(),
  ),
  jsonRoute(
    {
      method: "POST",
      path: "/v1/cache/prune",
      id: "pruneCache",
      summary: "give up what is cached and not in use",
    },
    { ...TAKES_NOTHING, body: pruneRequest },
    prunedAnswer,
    (operations, { body }) => operations.pruneCache(body),
  ),
  jsonRoute(
    {
      method: "PATCH",
      path: "/v1/config",
      id: "changeConfig",
      summary: "change what takes effect at once, until the daemon stops",
    },
    { ...TAKES_NOTHING, body: changeConfig },
    configView,
    (operations, { body }) => operations.changeConfig(body),
  ),
];

const imageRoutes: readonly Route[] = [
  jsonRoute(
    get("/v1/images", "listImages", "images that can be mounted, the newest last"),
    TAKES_NOTHING,
    imagesAnswer,
    async (operations) => ({ images: [...(await operations.images())] }),
  ),
  jsonRoute(
    {
      method: "POST",
      path: "/v1/images",
      id: "registerImage",
      summary: "make a reference mountable; a client that goes away ends its wait, not the work",
    },
    { ...TAKES_NOTHING, body: registerRequest },
    registeredImage,
    (operations, { body }, gone) => operations.register(body, gone),
  ),
  jsonRoute(
    get("/v1/images/{name}", "getImage", "one image: by fsid, reference or manifest digest"),
    { ...TAKES_NOTHING, params: imageName },
    imageDetail,
    (operations, { params }) => operations.image(params.name),
  ),
  jsonRoute(
    {
      method: "DELETE",
      path: "/v1/images/{name}",
      id: "removeImage",
      summary: "forget an image that is not mounted, with what is cached of it alone",
    },
    { ...TAKES_NOTHING, params: imageName },
    removedImage,
    (operations, { params }) => operations.removeImage(params.name),
  ),
  jsonRoute(
    get("/v1/images/{name}/history", "getHistory", "what an open image was asked for, and got"),
    { ...TAKES_NOTHING, params: imageName },
    imageHistory,
    (operations, { params }) => operations.imageHistory(params.name),
  ),
  jsonRoute(
    get("/v1/failures", "getFailure", "the last failure of a key; the kernel says only ENOBUFS"),
    { ...TAKES_NOTHING, query: failureQuery },
    failureAnswer,
    (operations, { query }) => ({ failure: operations.lastFailure(query.key) }),
  ),
];

const upgradeRoute = jsonRoute(
  {
    method: "POST",
    path: "/v1/upgrade",
    id: "upgrade",
    summary: "start the program as it is on disk now, and let it take over",
  },
  TAKES_NOTHING,
  upgradeAnswer,
  (operations) => operations.upgrade(),
);

const mountRoutes: readonly Route[] = [
  writtenRoute(
    get("/v1/mounts", "listMounts", "what is mounted, whoever did it, and what is about to be"),
    mountsAnswer,
    (operations) => operations.mounts(),
  ),
  jsonRoute(
    {
      method: "POST",
      path: "/v1/mounts",
      id: "mountImage",
      summary: "mount an image; a client that goes away ends its wait, not the work",
    },
    { ...TAKES_NOTHING, body: mountRequest },
    madeMount,
    (operations, { body }, gone) => operations.mount(body, gone),
  ),
  jsonRoute(
    {
      method: "DELETE",
      path: "/v1/mounts/{mountPoint}",
      id: "unmountImage",
      summary: "unmount an image, or give up mounting it",
    },
    { ...TAKES_NOTHING, params: mountName, query: unmountQuery },
    unmounted,
    (operations, { params, query }) =>
      operations.unmount(params.mountPoint, { lazy: query.lazy === "true" }),
  ),
];

const credentialRoutes: readonly Route[] = [
  jsonRoute(
    {
      method: "POST",
      path: "/v1/credentials",
      id: "pushCredentials",
      summary: "credentials for a registry, kept in memory and never given back",
    },
    { ...TAKES_NOTHING, body: pushCredentials },
    pushedAnswer,
    (operations, { body }) => {
      operations.pushCredentials(body);
      return {};
    },
  ),
  jsonRoute(
    {
      method: "DELETE",
      path: "/v1/credentials",
      id: "dropCredentials",
      summary: "forget what was pushed",
    },
    { ...TAKES_NOTHING, query: dropCredentials },
    droppedAnswer,
    (operations, { query }) => ({ deleted: operations.dropCredentials(query) }),
  ),
];

const streamRoutes: readonly Route[] = [
  textRoute(
    {
      ...get("/v1/trace", "recordTrace", "what readers ask for, while it happens"),
      contentType: "application/x-ndjson",
    },
    { ...TAKES_NOTHING, query: traceQuery },
    async (operations, { query }, gone) => {
      const { seconds, key = [], image: name } = query;
      const found = name === undefined ? undefined : await operations.image(name);
      const keys = [...key, ...(found?.streams.map(({ digest }) => digest) ?? [])];
      const image = found && {
        reference: found.reference,
        manifestDigest: found.manifestDigest,
      };
      const wish = { seconds, keys, image };
      return { contentType: "application/x-ndjson", text: operations.trace(wish, gone) };
    },
  ),
  textRoute(
    {
      ...get("/v1/images/{name}/files", "listFiles", "where an image's files lie"),
      contentType: "application/x-ndjson",
    },
    { ...TAKES_NOTHING, params: imageName },
    (operations, { params }, gone) => {
      const text = operations.imageFiles(params.name, gone);
      return { contentType: "application/x-ndjson", text };
    },
  ),
  textRoute(
    {
      ...get("/v1/events", "watchEvents", "what happens, as Server-Sent Events"),
      contentType: "text/event-stream",
    },
    TAKES_NOTHING,
    (operations, _, gone) => {
      return { contentType: "text/event-stream", text: operations.events(gone) };
    },
  ),
];

const describeRoute = jsonRoute(
  get("/openapi.json", "getOpenApi", "this description of the API, OpenAPI 3.1"),
  TAKES_NOTHING,
  z.record(z.string(), z.unknown()),
  async () => {
    // Some milliseconds of work that nothing at start needs.
    const { openApiDocument } = await import("./openapi.ts");
    return { ...openApiDocument(ROUTES, await packageVersion()) };
  },
);

export const ROUTES: readonly Route[] = [
  ...daemonRoutes,
  ...imageRoutes,
  ...mountRoutes,
  ...credentialRoutes,
  ...prefetchRoutes,
  ...streamRoutes,
  upgradeRoute,
  describeRoute,
];
