// SPDX-License-Identifier: Apache-2.0
// Writing to a registry (distribution-spec, "Pushing blobs" in two requests, "Pushing manifests"):
// small things, from memory, one try each. It is written to the registry itself, past mirrors.

import { DaemonError } from "../../errors.ts";
import type { Digest } from "../../units.ts";
import type { FetchOptions, Origin, Source } from "../source.ts";
import type { ResponseHead } from "./exchange.ts";
import { type HTTPClient, type Try, protocolFault, redirectTarget } from "./http-get.ts";
import { upstreamUrl } from "./upstream.ts";

const ACCEPTED = 202;
const CREATED = 201;

/** A registry that can be written to as well. */
export interface RegistrySource extends Required<Source> {
  /** As putBlob() below. Faults also: deadline_exceeded, cancelled. */
  putBlob(
    origin: Origin,
    blob: Parameters<typeof putBlob>[2],
    options: FetchOptions,
  ): Promise<void>;
  putManifest(
    origin: Origin,
    manifest: Parameters<typeof putManifest>[2],
    options: FetchOptions,
  ): Promise<boolean>;
}

/** Resolves when the registry has it, under `digest`. Faults: registry_*. */
export async function putBlob(
  http: HTTPClient,
  attempt: Try,
  { digest, bytes }: { readonly digest: Digest; readonly bytes: Uint8Array },
): Promise<void> {
  const { upstream, repository, access } = attempt;
  const start = upstreamUrl(upstream, repository, "blobs/uploads/");
  const begun = await send(http, attempt, { method: "POST", url: start, status: ACCEPTED });
  const url = redirectTarget(start, begun, access()?.profile);
  url.searchParams.set("digest", digest);
  const type = "application/octet-stream";
  await send(http, attempt, { method: "PUT", url, status: CREATED, bytes, type });
}

/**
 * Resolves when the registry has it, under `name` (a tag, or its digest); true when the registry
 * lists it itself for the subject it names. Faults: registry_*.
 */
export async function putManifest(
  http: HTTPClient,
  attempt: Try,
  of: { readonly name: string; readonly bytes: Uint8Array; readonly mediaType: string },
): Promise<boolean> {
  const { name, bytes, mediaType: type } = of;
  const url = upstreamUrl(attempt.upstream, attempt.repository, `manifests/${name}`);
  const head = await send(http, attempt, { method: "PUT", url, status: CREATED, bytes, type });
  return head.headers.has("oci-subject");
}

async function send(
  http: HTTPClient,
  attempt: Try,
  of: {
    readonly method: "POST" | "PUT";
    readonly url: URL;
    /** Of success. */
    readonly status: number;
    readonly bytes?: Uint8Array;
    readonly type?: string;
  },
): Promise<ResponseHead> {
  const { upstream, repository, what } = attempt;
  const { method, url, status, bytes = new Uint8Array(), type } = of;
  let answer: ResponseHead | undefined;
  await http.get({
    ...attempt,
    method,
    url,
    headers: type === undefined ? {} : { "content-type": type },
    body: bytes,
    notFound: { code: "registry_failed", host: upstream.name, status: 404, detail: what },
    isDone: (given) => given === status,
    onHead: (head) => {
      answer = head;
      return undefined;
    },
    // The usual words are about reading.
    onStatus: ({ status: given, host }) =>
      given === 401 || given === 403
        ? new DaemonError({ code: "registry_unauthorized", host, repository, status: given })
        : undefined,
  });
  if (answer === undefined) throw protocolFault(upstream.name, `no answer to ${what}`);
  return answer;
}
