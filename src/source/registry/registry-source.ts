// SPDX-License-Identifier: Apache-2.0
// Source over an OCI registry and its mirrors (OCI distribution-spec, "Pulling manifests",
// "Pulling blobs"): asks the upstreams in order, round by round, and resumes a range where a
// connection broke, at whichever upstream comes next. Knows nothing of readers, caches or images.

import { DaemonError, invariant } from "../../errors.ts";
import { isRepository, isTag } from "../../image/oci/reference.ts";
import { type Digest, type Extent, extentEnd, isDigest } from "../../units.ts";
import { withBounds } from "../deadline.ts";
import type { BlobLocation, FetchedManifest, FetchOptions, Origin, RangeHint } from "../source.ts";
import { PROXY_PIECE_BYTES } from "./access.ts";
import { BlobDoubts } from "./blob-doubts.ts";
import { type BoundedTries, boundedTries } from "./bounded-tries.ts";
import { EnvironmentProxies } from "./environment-proxies.ts";
import { HedgeBudget } from "./hedge-budget.ts";
import { HTTPClient, type Try } from "./http-get.ts";
import { Lanes, type StraightTry } from "./lanes.ts";
import { LatencyHistory } from "./latency-history.ts";
import { LongRequests, type Prepared } from "./long-requests.ts";
import { fetchManifest } from "./manifest-fetch.ts";
import {
  REGISTRY_DEFAULTS,
  type RegistryLog,
  type RegistryObserver,
  type RegistryOptions,
  type RegistryParts,
} from "./options.ts";
import { Peers } from "./peers.ts";
import { Pools } from "./pools.ts";
import { type RegistrySource, putBlob, putManifest } from "./push.ts";
import { fetchSize } from "./range-fetch.ts";
import { fetchReferrers } from "./referrers.ts";
import { type RoundOptions, tryInOrder } from "./rounds.ts";
import { readSystemRoots } from "./system-roots.ts";
import { TLSLoader } from "./tls-options.ts";
import { Transport } from "./transport.ts";
import { type Upstream, registryUpstream } from "./upstream.ts";
import { type Entry, UpstreamHealth } from "./upstream-health.ts";
import { type Purpose, planRound } from "./upstream-order.ts";

/** Of Dragonfly, two requests at once: 48 MB/s by 4 MiB, 127 by 16 MiB, 154 by 64 MiB. */
const PREFERRED_PIECES = 4;
/** Between two tries of what a reader waits for: a host that is back is not to be missed. */
const READ_BACKOFF_CAP_MS = 1_000;
/** Failed tries of one fetch that are in the log without being asked for. */
const LOUD_TRIES = 3;

export function createRegistrySource(parts: RegistryParts): RegistrySource {
  return new UpstreamsSource(parts);
}

/** One fetch, whatever upstream serves it. */
interface Fetch {
  readonly origin: Origin;
  readonly purpose: Purpose;
  /** Names it in faults. */
  readonly what: string;
  readonly options: FetchOptions;
}

class UpstreamsSource implements RegistrySource {
  readonly #parts: RegistryParts;
  readonly #options: RegistryOptions;
  readonly #observe: RegistryObserver;
  readonly #log: RegistryLog | undefined;
  readonly #pools: Pools;
  readonly #http: HTTPClient;
  readonly #history: LatencyHistory;
  readonly #peers: Peers;
  readonly #lanes: Lanes;
  readonly #health: UpstreamHealth;
  readonly #doubts: BlobDoubts;
  readonly #long: LongRequests;
  readonly #closing = new AbortController();

  constructor(parts: RegistryParts) {
    this.#parts = parts;
    this.#options = { ...REGISTRY_DEFAULTS, ...parts.options };
    this.#observe = parts.observe ?? {};
    this.#log = parts.log;
    const environment = new EnvironmentProxies(parts.environment ?? {});
    for (const problem of environment.problems) this.#log?.warn({}, problem);
    const tls = new TLSLoader({
      tlsCa: this.#options.tlsCa,
      systemRoots: () => readSystemRoots(parts.environment ?? {}),
    });
    this.#pools = new Pools({ options: this.#options, tls, environment });
    this.#history = new LatencyHistory(parts);
    const closing = this.#closing.signal;
    const { clock, credentials } = parts;
    const transport = new Transport({
      clock,
      options: this.#options,
      pools: this.#pools,
      observe: this.#observe,
      log: this.#log,
      closing,
    });
    const wallClockMs = Date.now;
    const http = new HTTPClient({ clock, wallClockMs, transport, closing, credentials });
    this.#http = http;
    this.#peers = new Peers({
      clock,
      options: parts.peers,
      observe: this.#observe,
      log: this.#log,
      closing,
      ping: (url) => transport.ping(url),
    });
    this.#health = new UpstreamHealth({
      clock,
      log: this.#log,
      closing,
      onBreaker: (host, state) => this.#observe.breaker?.(host, state),
      ping: (upstream, access) => transport.pingUpstream(upstream, access),
    });
    this.#doubts = new BlobDoubts(clock);
    this.#long = new LongRequests(clock, closing);
    this.#lanes = new Lanes({
      clock,
      http,
      history: this.#history,
      hedges: parts.hedges ?? new HedgeBudget({ percent: this.#options.hedgePercent }),
      peers: this.#peers,
      observe: this.#observe,
      onCovered: ({ upstream, what, hints }, error) => {
        const { code } = error.fault;
        if (hints.retryAfterMs !== undefined) this.#health.waits(upstream, hints.retryAfterMs);
        this.#observe.failure?.(upstream.name, code);
        this.#log?.warn({ host: upstream.name, what, code }, `${error.message}; trying again`);
      },
    });
  }

  async fetchManifest(
    origin: Origin,
    wanted: string,
    options: FetchOptions,
  ): Promise<FetchedManifest> {
    invariant(isTag(wanted) || isDigest(wanted), "a manifest is asked for by tag or digest");
    const what = `manifest ${wanted} of ${origin.repository}`;
    const purpose = isDigest(wanted) ? "pull" : "resolve";
    return await this.#fetch({ origin, purpose, what, options }, (attempt) =>
      this.#lanes.ask(attempt, (asked) => fetchManifest(this.#http, asked, wanted)),
    );
  }

  async fetchReferrers(
    origin: Origin,
    of: { readonly subject: Digest; readonly artifactType: string },
    options: FetchOptions,
  ): Promise<Uint8Array | undefined> {
    const what = `referrers of ${of.subject} in ${origin.repository}`;
    return await this.#fetch({ origin, purpose: "resolve", what, options }, (attempt) =>
      this.#lanes.ask(attempt, (asked) => fetchReferrers(this.#http, asked, of)),
    );
  }

  async putBlob(origin: Origin, blob: Parameters<typeof putBlob>[2], options: FetchOptions) {
    const what = `storing blob ${blob.digest} in ${origin.repository}`;
    await this.#write({ origin, what, options }, (asked) => putBlob(this.#http, asked, blob));
  }

  async putManifest(
    origin: Origin,
    manifest: Parameters<typeof putManifest>[2],
    options: FetchOptions,
  ): Promise<boolean> {
    const what = `storing manifest ${manifest.name} in ${origin.repository}`;
    return await this.#write({ origin, what, options }, (asked) =>
      putManifest(this.#http, asked, manifest),
    );
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
    let offset = extent.offset;
    const count = (piece: Uint8Array): void => {
      offset += piece.length;
      onPiece(piece);
    };
    const what = `blob ${digest}`;
    const { urgency = "demand", deadlineMs, awaited, avoidPeers = false } = options;
    const fetch = { origin, purpose: "pull", what, options } as const;
    if (avoidPeers) this.#peers.accuse(digest, extent);
    // Read-ahead may ask for whole pieces, of which some is here.
    if (urgency === "demand" || avoidPeers) this.#doubts.asked(what, extent, avoidPeers);
    const terms = { urgency, deadlineMs, awaited, avoidPeers };
    const long =
      urgency === "demand" || avoidPeers
        ? undefined
        : await this.#share(blob, extent, count, options);
    if (offset === end) return;
    const work = this.#fetch(fetch, async (attempt, spare) => {
      const wanted = { offset, length: end - offset };
      // All bytes are there, but the upstream's answer did not end well.
      if (wanted.length === 0) return;
      if (long?.request.isOver === false) {
        long.request.isOfMirror = attempt.upstream.isMirror;
        await this.#long.make(long, (range, signal) =>
          this.#lanes.fetch({ ...attempt, signal }, { blob, ...range }, terms),
        );
      } else await this.#lanes.fetch(attempt, { blob, wanted, onPiece: count }, terms, spare);
      const mirrors = [attempt, spare].filter((each) => each?.upstream.isMirror === true);
      if (mirrors.length > 0) this.#doubts.served(what, extent);
    });
    await work.catch((error: unknown) => {
      long?.request.fail(error);
      throw error;
    });
  }

  /** As LongRequests.share(). */
  async #share(
    blob: BlobLocation,
    wanted: Extent,
    onPiece: (piece: Uint8Array) => void,
    options: FetchOptions,
  ): Promise<Prepared | undefined> {
    // Peers share whole pieces instead.
    const mayMake = this.rangeHint(blob.origin) === undefined;
    const { joined, made } = this.#long.share({ blob, wanted, onPiece, mayMake }, options);
    const request = await joined;
    if (request?.isOfMirror === true) this.#doubts.served(`blob ${blob.digest}`, wanted);
    return made;
  }

  async blobSize(blob: BlobLocation, options: FetchOptions): Promise<number> {
    const what = `size of blob ${blob.digest}`;
    const fetch = { origin: blob.origin, purpose: "pull", what, options } as const;
    return await this.#fetch(fetch, (attempt) =>
      this.#lanes.ask(attempt, (asked) => fetchSize(this.#http, asked, blob)),
    );
  }

  rangeHint({ host, repository }: Origin): RangeHint | undefined {
    const proxy = this.#peers.proxyFor(host, this.#parts.access?.get(host, repository));
    if (proxy === undefined || !this.#peers.isInUse(proxy)) return undefined;
    const alignBytes = proxy.pieceBytes ?? PROXY_PIECE_BYTES;
    return { alignBytes, preferBytes: PREFERRED_PIECES * alignBytes };
  }

  async close(): Promise<void> {
    const stopping = new DaemonError({ code: "stopping" });
    this.#closing.abort(stopping);
    await this.#pools.destroy(stopping);
  }

  /** Tries within the caller's bounds, round by round, counting and logging what fails. */
  #fetch<T>(
    fetch: Fetch,
    run: (attempt: StraightTry, spare: StraightTry | undefined) => Promise<T>,
  ): Promise<T> {
    const { origin, what, options } = fetch;
    const { isPatient = false } = options;
    const { host } = origin;
    invariant(origin.kind === "registry" && isRepository(origin.repository), "a registry's origin");
    const { clock, random } = this.#parts;
    const { attemptsMax, backoffBaseMs, backoffCapMs } = this.#options;
    let upstreams: readonly Upstream[] = [];
    const bounds: BoundedTries = {
      clock,
      random,
      what,
      deadlineMs: options.deadlineMs,
      signals: [options.signal, this.#closing.signal],
      attemptsMax: options.attemptsMax ?? (isPatient ? Number.POSITIVE_INFINITY : attemptsMax),
      backoffBaseMs,
      backoffCapMs: isPatient ? READ_BACKOFF_CAP_MS : backoffCapMs,
      onFailure: (error, delayMs, tried) => {
        if (delayMs === undefined) return;
        const fields = { host, what, code: error.fault.code, delayMs };
        const level = tried <= LOUD_TRIES ? "warn" : "debug";
        this.#log?.[level](fields, `${error.message}; trying again`);
      },
      pause: (delayMs, signal) => this.#health.pause(upstreams, delayMs, signal),
    };
    return boundedTries(bounds, async ({ hints, signal, began }) => {
      const round = await this.#round(fetch, signal);
      ({ upstreams } = round);
      return await tryInOrder(round, hints, (upstream, own) => {
        began();
        const next = this.#spare(round.upstreams, upstream, what);
        const of = (whose: Upstream): StraightTry => ({
          ...this.#whose(fetch, whose),
          what,
          signal,
          traced: options.traced,
          hints: own,
        });
        return run(of(upstream), next && of(next));
      });
    });
  }

  /** Once, at the registry itself. */
  #write<T>(fetch: Omit<Fetch, "purpose">, run: (attempt: Try) => Promise<T>): Promise<T> {
    const { origin, what, options } = fetch;
    invariant(origin.kind === "registry" && isRepository(origin.repository), "a registry's origin");
    const signals = [options.signal, this.#closing.signal];
    const bounds = { clock: this.#parts.clock, deadlineMs: options.deadlineMs, signals, what };
    return withBounds(bounds, async (signal) => {
      const upstream = (await this.#upstreams(origin)).at(-1);
      invariant(upstream !== undefined, "the registry itself is an upstream");
      const attempt = {
        ...this.#whose(fetch, upstream),
        what,
        signal,
        hints: { retryAfterMs: undefined, final: true },
      };
      return await this.#lanes.ask(attempt, run);
    });
  }

  async #round(fetch: Fetch, signal: AbortSignal): Promise<RoundOptions> {
    const { origin, purpose, what } = fetch;
    const upstreams = planRound(await this.#upstreams(origin), purpose, (upstream) => ({
      standing: this.#health.standing(upstream),
      isDoubted: this.#doubts.isDoubted(upstream, what),
    }));
    if (upstreams.length === 0) {
      const detail = `no upstream may ${purpose} (capabilities in its hosts.toml)`;
      throw new DaemonError({ code: "registry_unreachable", host: origin.host, detail });
    }
    return {
      upstreams,
      health: this.#health,
      entryOf: (upstream) => this.#entry(fetch, upstream, signal),
      signal,
      onFailure: (upstream, error, next) => {
        const { code } = error.fault;
        this.#doubts.failed(upstream, what, error);
        this.#observe.failure?.(upstream.name, code);
        if (next === undefined) return;
        this.#log?.debug(
          { host: upstream.name, what, code },
          `${error.message}; asking ${next.name}`,
        );
      },
    };
  }

  /** Who else may be asked beside `upstream`; nobody that would rather not be asked at all. */
  #spare(upstreams: readonly Upstream[], upstream: Upstream, what: string): Upstream | undefined {
    const next = upstreams[upstreams.indexOf(upstream) + 1];
    if (next === undefined || this.#health.standing(next) !== "ready") return undefined;
    return this.#doubts.isDoubted(next, what) ? undefined : next;
  }

  #entry(fetch: Fetch, upstream: Upstream, signal: AbortSignal): Entry {
    const { deadlineMs, urgency, awaited, avoidPeers = false } = fetch.options;
    const { access } = this.#whose(fetch, upstream);
    const proxy = avoidPeers ? undefined : this.#peers.proxyFor(upstream.accessHost, access());
    return {
      signal,
      deadlineMs,
      isAwaited: urgency !== "prefetch" || awaited?.aborted === true,
      hasPeers: proxy !== undefined && this.#peers.isInUse(proxy),
      access,
    };
  }

  /** Where the origin's bytes may be had, mirrors first, the registry last. */
  async #upstreams({ host, repository }: Origin): Promise<readonly Upstream[]> {
    const scheme =
      this.#parts.access?.get(host, repository)?.profile.scheme ??
      (this.#options.plainHttp(host) ? "http" : "https");
    const plain = registryUpstream(host, scheme);
    return (await this.#parts.upstreams?.(host, plain)) ?? [plain];
  }

  /** Credentials are for one host: a mirror gets those of its own name, or none. */
  #whose(
    { origin }: Pick<Fetch, "origin">,
    upstream: Upstream,
  ): Pick<Try, "upstream" | "repository" | "access"> {
    const { repository } = origin;
    const access = () => this.#parts.access?.get(upstream.accessHost, repository);
    return { upstream, repository, access };
  }
}
