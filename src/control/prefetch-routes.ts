// SPDX-License-Identifier: Apache-2.0
// Operations of the control socket about prefetches.

import {
  PREFETCH_BODY_BYTES_MAX,
  changePrefetch,
  prefetchId,
  prefetchView,
  prefetchesAnswer,
  startPrefetch,
  startedPrefetch,
} from "./prefetch-schema.ts";
import { type Route, TAKES_NOTHING, jsonRoute, textRoute } from "./route.ts";

const ONE = "/v1/prefetches/{id}";

export const prefetchRoutes: readonly Route[] = [
  jsonRoute(
    {
      method: "POST",
      path: "/v1/prefetches",
      id: "startPrefetch",
      summary: "fill an image, or parts of it, before anybody reads it; mounted or not",
      bodyBytesMax: PREFETCH_BODY_BYTES_MAX,
    },
    { ...TAKES_NOTHING, body: startPrefetch },
    startedPrefetch,
    (operations, { body }, gone) => operations.startPrefetch(body, gone),
  ),
  jsonRoute(
    {
      method: "GET",
      path: "/v1/prefetches",
      id: "listPrefetches",
      summary: "what is being prefetched, and what was",
    },
    TAKES_NOTHING,
    prefetchesAnswer,
    (operations) => ({ prefetches: [...operations.prefetches()] }),
  ),
  jsonRoute(
    { method: "GET", path: ONE, id: "getPrefetch", summary: "how far a prefetch is" },
    { ...TAKES_NOTHING, params: prefetchId },
    prefetchView,
    (operations, { params }) => operations.prefetch(params.id),
  ),
  jsonRoute(
    {
      method: "PATCH",
      path: ONE,
      id: "changePrefetch",
      summary: "change it while it is under way",
    },
    { ...TAKES_NOTHING, params: prefetchId, body: changePrefetch },
    prefetchView,
    (operations, { params, body }) => operations.changePrefetch(params.id, body),
  ),
  jsonRoute(
    {
      method: "DELETE",
      path: ONE,
      id: "cancelPrefetch",
      summary: "end it, or forget one that has ended; what is cached stays",
    },
    { ...TAKES_NOTHING, params: prefetchId },
    prefetchView,
    (operations, { params }) => operations.cancelPrefetch(params.id),
  ),
  textRoute(
    {
      method: "GET",
      path: `${ONE}/events`,
      id: "watchPrefetch",
      summary: "how far it is, as Server-Sent Events until it has ended",
      contentType: "text/event-stream",
      event: prefetchView,
    },
    { ...TAKES_NOTHING, params: prefetchId },
    (operations, { params }, gone) => {
      return { contentType: "text/event-stream", text: operations.watchPrefetch(params.id, gone) };
    },
  ),
];
