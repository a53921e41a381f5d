// SPDX-License-Identifier: Apache-2.0
// Source over an OCI registry (OCI distribution-spec, "Pulling manifests", "Pulling blobs"):
// builds the requests, checks what came against what was asked, and resumes a range where a
// connection broke. Knows nothing of readers, caches or images.

import { createHash } from "node:crypto";
import { setMaxListeners } from "node:events";
import { DaemonError, invariant } from "../../errors.ts";
import { MANIFEST_BYTES_MAX } from "../../image/oci/manifest.ts";
import { MANIFEST_TYPES } from "../../image/oci/media-types.ts";
import { isRepository, isTag } from "../../image/oci/reference.ts";
import { type Digest, type Extent, extentEnd, isDigest } from "../../units.ts";
import { withBounds } from "../deadline.ts";
import type { BlobLocation, FetchedManifest, FetchOptions, Origin, Source } from "../source.ts";
import type { Access } from "./access.ts";
import type { BodySink, ResponseHead } from "./exchange.ts";
import { type GetRequest, HTTPClient, PieceCollector, protocolFault } from "./http-get.ts";
import {
  REGISTRY_DEFAULTS,
  type RegistryLog,
  type RegistryObserver,
  type RegistryOptions,
  type RegistryParts,
} from "./options.ts";
import { Pools } from "./pools.ts";
import { checkRangeAnswer, rangeHeader, storedSizeOf, unsatisfiedRange } from "./range-request.ts";
import { withRetries } from "./retry.ts";
import { Transport } from "./transport.ts";

export function createRegistrySource(parts: RegistryParts): Source {
  return new RegistrySource(parts);
}

class RegistrySource implements Source {
  readonly #parts: RegistryParts;
  readonly #options: RegistryOptions;
  readonly #observe: RegistryObserver;
  readonly #log: RegistryLog | undefined;
  readonly #pools: Pools;
  readonly #http: HTTPClient;
  readonly #closing = new AbortController();

  constructor(parts: RegistryParts) {
    // Every fetch listens to it; how many there are at once is the caller's to bound.
    setMaxListeners(0, this.#closing.signal);
    this.#parts = parts;
    this.#options = { ...REGISTRY_DEFAULTS, ...parts.options };
    this.#observe = parts.observe ?? {};
    this.#log = parts.log;
    this.#pools = new Pools(this.#options);
    const closing = this.#closing.signal;
    const { clock } = parts;
    const transport = new Transport({
      clock,
      options: this.#options,
      pools: this.#pools,
      observe: this.#observe,
      log: this.#log,
      closing,
    });
    this.#http = new HTTPClient({ clock, wallClockMs: Date.now, transport, closing });
  }

  async fetchManifest(
    origin: Origin,
    wanted: string,
    options: FetchOptions,
  ): Promise<FetchedManifest> {
    invariant(isTag(wanted) || isDigest(wanted), "a manifest is asked for by tag or digest");
    const what = `manifest ${wanted} of ${origin.repository}`;
    return await this.#fetch({ origin, what, options }, async (attempt) => {
      const collector = new PieceCollector(MANIFEST_BYTES_MAX, origin.host);
      let answer: ResponseHead | undefined;
      await this.#http.get({
        ...attempt,
        url: this.#url(origin, `manifests/${wanted}`),
        headers: { accept: MANIFEST_TYPES.join(", ") },
        notFound: {
          code: "manifest_not_found",
          host: origin.host,
          repository: origin.repository,
          wanted,
        },
        onHead: (head) => {
          answer = head;
          return (piece) => collector.add(piece);
        },
      });
      invariant(answer !== undefined, "a body comes after its head");
      return checkManifest(answer, collector.join(), wanted);
    });
  }

  async readRange(
    blob: BlobLocation,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    options: FetchOptions,
  ): Promise<void> {
    const end = extentEnd(extent);
    invariant(extent.offset >= 0 && end <= (blob.size ?? end), "extent lies within its blob");
    if (extent.length === 0) return;
    const { origin, digest } = blob;
    const what = `blob ${digest}`;
    let deliveredBytes = 0;
    await this.#fetch({ origin, what, options }, async (attempt) => {
      const offset = extent.offset + deliveredBytes;
      const wanted = { offset, length: end - offset };
      const begin = deliveredBytes;
      await this.#http.get({
        ...attempt,
        ...this.#blobRequest(blob, wanted),
        onStatus: (head) => (head.status === 416 ? unsatisfiedRange(head, blob) : undefined),
        onHead: (head): BodySink => {
          checkRangeAnswer(head, blob, wanted);
          return (piece) => {
            const left = extent.length - deliveredBytes;
            if (piece.length > left) {
              attempt.hints.final = left === 0;
              throw protocolFault(head.host, `more than ${wanted.length} bytes in ${what}`);
            }
            deliveredBytes += piece.length;
            onPiece(piece);
          };
        },
      });
      if (deliveredBytes < extent.length) {
        const got = deliveredBytes - begin;
        throw protocolFault(origin.host, `${got} of ${wanted.length} bytes in ${what}`);
      }
    });
  }

  /** Asks for the first byte: some registries answer a HEAD with a redirect's length, or none. */
  async blobSize(blob: BlobLocation, options: FetchOptions): Promise<number> {
    const what = `size of blob ${blob.digest}`;
    return await this.#fetch({ origin: blob.origin, what, options }, async (attempt) => {
      let size: number | undefined;
      try {
        await this.#http.get({
          ...attempt,
          ...this.#blobRequest(blob, { offset: 0, length: 1 }),
          onHead: (head) => {
            size = storedSizeOf(head, blob);
            return undefined;
          },
          onStatus: (head) => {
            if (head.status === 416) size = storedSizeOf(head, blob);
            return undefined;
          },
        });
      } catch (error) {
        // The 416 of an empty blob is an answer.
        if (size === undefined) throw error;
      }
      invariant(size !== undefined, "an answer has a head");
      return size;
    });
  }

  async close(): Promise<void> {
    const stopping = new DaemonError({ code: "stopping" });
    this.#closing.abort(stopping);
    await this.#pools.destroy(stopping);
  }

  /** Tries within the caller's bounds, counting and logging what fails. */
  #fetch<T>(
    { origin, what, options }: { origin: Origin; what: string; options: FetchOptions },
    run: (attempt: Attempt) => Promise<T>,
  ): Promise<T> {
    const { host, repository } = origin;
    invariant(origin.kind === "registry" && isRepository(origin.repository), "a registry's origin");
    const { clock, random } = this.#parts;
    const { deadlineMs } = options;
    const signals = [options.signal, this.#closing.signal];
    const { attemptsMax, backoffBaseMs, backoffCapMs } = this.#options;
    const access = (): Access | undefined => this.#parts.access?.get(host, repository);
    const route = { isDirect: false };
    return withBounds({ clock, deadlineMs, signals, what }, (signal) =>
      withRetries(
        {
          clock,
          random,
          attemptsMax: Math.min(attemptsMax, options.attemptsMax ?? attemptsMax),
          backoffBaseMs,
          backoffCapMs,
          deadlineMs,
          signal,
          onFailure: (error, delayMs) => {
            this.#observe.failure?.(host, error.fault.code);
            if (delayMs === undefined) return;
            const fields = { host, what, code: error.fault.code, delayMs };
            this.#log?.warn(fields, `${error.message}; trying again`);
          },
        },
        (hints) => run({ what, repository, access, route, signal, hints }),
      ),
    );
  }

  #blobRequest({ origin, digest }: BlobLocation, wanted: Extent) {
    const { host, repository } = origin;
    return {
      url: this.#url(origin, `blobs/${digest}`),
      headers: { accept: "*/*", range: rangeHeader(wanted) },
      notFound: { code: "blob_not_found", host, repository, digest },
    } as const;
  }

  #url({ host, repository }: Origin, path: string): URL {
    const scheme =
      this.#parts.access?.get(host, repository)?.profile.scheme ??
      (this.#options.plainHttp(host) ? "http" : "https");
    return new URL(`${scheme}://${host}/v2/${repository}/${path}`);
  }
}

/** What all requests of one try share. */
type Attempt = Pick<GetRequest, "what" | "repository" | "access" | "route" | "signal" | "hints">;

/** What the registry says it is, against what it is. */
function checkManifest(head: ResponseHead, bytes: Uint8Array, wanted: string): FetchedManifest {
  const digest = sha256(bytes);
  const said = head.headers.get("docker-content-digest") ?? "";
  const expected = isDigest(wanted) ? wanted : isDigest(said) ? said : digest;
  if (digest !== expected) {
    throw new DaemonError({
      code: "digest_mismatch",
      where: `manifest ${wanted} at ${head.host}`,
      expected,
      actual: digest,
    });
  }
  const mediaType = (head.headers.get("content-type")?.split(";")[0] ?? "").trim();
  return { digest, mediaType, bytes };
}

function sha256(bytes: Uint8Array): Digest {
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  invariant(isDigest(digest), "a SHA-256 is a digest");
  return digest;
}
