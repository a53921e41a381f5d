// SPDX-License-Identifier: Apache-2.0
// What a cookie key stands for: a stream, and the size the kernel is told.
//
//   key -> a digest we know?  -> its stream
//       -> a name?            -> resolve it, or, with the registry away, what it was bound to
//       -> look at its superblock once, or take its Nydus bootstrap in -> bind it durably
//
// A binding is on disk before anything is told to the kernel (state/bindings.ts says why).

import { LRUCache } from "lru-cache";
import { type Code, DaemonError, asDaemonError } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../platform/log.ts";
import type {
  ReferenceResolver,
  ResolvedBootstrap,
  ResolvedRAFS,
  ResolvedReference,
} from "../source/reference-resolver.ts";
import type { FetchOptions } from "../source/source.ts";
import {
  type Binding,
  type Bindings,
  type Content,
  type CookieName,
  type StreamRecord,
  isSameImage,
} from "../state/bindings.ts";
import { isDigest } from "../units.ts";
import type { Seed } from "../cache/seed-files.ts";
import type { Engine } from "./engine.ts";
import { digestOfKey, ownKey } from "./content-keys.ts";
import { deviceSeeds } from "./device-seeds.ts";
import { inspectPrimary } from "./inspect-image.ts";
import { NameLocks } from "./name-locks.ts";
import type { PinnedHead } from "./stream-flow.ts";
import type { Stream } from "./stream.ts";
import type { Streams } from "./streams.ts";

/** A name that has a binding does not wait longer than this for a registry that is away. */
const RESOLVE_BOUND_MS = 5000;
/** How long a resolution that came too late for its OPEN is kept for the next one. */
const LATE_RESULT_MS = 60_000;
/** A prepared image's first bytes wait this long for its mount, so that they come only once. */
const HELD_HEAD_MS = 10_000;

/** Faults that say the registry is away, not that the name is wrong. */
const AWAY: readonly Code[] = [
  "registry_unreachable",
  "registry_timeout",
  "registry_failed",
  "registry_throttled",
  "deadline_exceeded",
];

export interface NameResolverParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly bindings: Bindings;
  readonly engine: Engine;
  readonly streams: Streams;
  readonly references: ReferenceResolver;
  /** Takes a Nydus image in: what to bind. */
  readonly admit: (
    image: ResolvedRAFS | ResolvedBootstrap,
    options: FetchOptions,
  ) => Promise<Content>;
  /** `require` refuses streams without digests per chunk. */
  readonly integrity: "require" | "prefer";
  /** `erofs,<domain_id>` of this daemon. */
  readonly volumeKey: string;
  readonly openTimeoutMs: number;
  /** A daemon before us may have mounted it as it is bound. */
  readonly mayBeMounted: (name: CookieName) => Promise<boolean>;
  readonly servesCompressed: boolean;
  /** Prepared images whose first bytes may wait for their mounts, one buffer each. */
  readonly heldHeadsMax: number;
  /** Called before the kernel may open these objects. */
  readonly seed: (seeds: readonly Seed[]) => Promise<void>;
}

/** What to answer an OPEN with. `release` must be called once the object is served, or is not. */
export interface Found {
  readonly stream: Stream;
  readonly copenSize: number;
  readonly release: () => void;
}

interface Preparing {
  /** Undefined: a digest of its content. */
  readonly fsid: string | undefined;
  readonly signal: AbortSignal;
  readonly ready?: Promise<unknown>;
}

export class NameResolver {
  readonly #parts: NameResolverParts;
  readonly #stopping = new AbortController();
  readonly #late: LRUCache<string, Content>;
  readonly #heldHeads = new Map<string, () => void>();
  readonly #locks = new NameLocks();

  constructor(parts: NameResolverParts) {
    this.#parts = parts;
    const perf = { now: () => parts.clock.nowMs() };
    this.#late = new LRUCache({ max: 256, ttl: LATE_RESULT_MS, perf, ttlResolution: 0 });
  }

  stop(error: DaemonError): void {
    this.#stopping.abort(error);
    for (const release of this.#heldHeads.values()) release();
  }

  /** Finds the stream behind a key that the kernel opens. */
  async find(name: CookieName): Promise<Found> {
    const { bindings } = this.#parts;
    const bound = bindings.get(name);
    const content = digestOfKey(name.cookieKey);
    if (bound === undefined && content !== undefined) {
      const stream = await this.#confirmed(bindings.findStreams(content));
      if (stream !== undefined) return this.#found(stream, stream.size, () => undefined);
      const detail = "no image known to this daemon has a device with this digest";
      throw new DaemonError({ code: "key_unknown", key: name.cookieKey, detail });
    }
    // Until the object is served: nobody else may say meanwhile what the name stands for.
    const unlock = await this.#locks.lock(name);
    let head: PinnedHead | undefined;
    const release = (): void => {
      head?.release();
      this.#heldHeads.get(name.cookieKey)?.();
      unlock();
    };
    try {
      let current = await this.#current(name, bindings.get(name));
      await this.#checkServable(name, current);
      if (current.inspected === undefined) {
        head = await this.#pinHead(current);
        current = await this.#inspect(name, current, head);
      }
      await this.#seed(deviceSeeds(name, current));
      return await this.#found(current.stream, await bindings.copenSize(name), release);
    } catch (error) {
      release();
      throw error;
    }
  }

  /**
   * Makes a reference mountable under `fsid`, by default a digest of its content, and returns the
   * binding. Its superblock has been read, and `devices` are in its device table's order.
   * Nothing is kept of it before `ready` resolves, and nothing when that rejects, as this does then.
   */
  async prepare(
    reference: string,
    options: Preparing,
  ): Promise<CookieName & { readonly binding: Binding }> {
    const prepared = await this.#prepare(reference, options);
    const { bindings } = this.#parts;
    const primary = { ...prepared, sizeBytes: await bindings.copenSize(prepared) };
    // Whoever registers an image mounts it with devices named by content.
    const devices = deviceSeeds(prepared, { ...prepared.binding, inspected: undefined });
    await this.#seed([primary, ...devices]);
    return prepared;
  }

  /** Only when nothing is cached of it any more. Fault: image_in_use when it has been opened. */
  async forget(name: CookieName): Promise<void> {
    const unlock = await this.#locks.lock(name);
    try {
      if (this.#parts.engine.isOpen(name.volumeKey, name.cookieKey)) {
        const detail = "it was opened meanwhile";
        throw new DaemonError({ code: "image_in_use", name: name.cookieKey, detail });
      }
      await this.#parts.bindings.forget(name);
    } finally {
      unlock();
    }
  }

  async #prepare(
    reference: string,
    options: Preparing,
  ): Promise<CookieName & { readonly binding: Binding }> {
    const { references, volumeKey } = this.#parts;
    const known = this.#knownAs(references.canonical(reference), options.fsid);
    const content = await this.#resolve(reference, known?.binding, options);
    await options.ready;
    if (content === undefined) {
      if (known === undefined) throw new Error(`"${reference}" has no content`);
      return known;
    }
    const name = { volumeKey, cookieKey: options.fsid ?? ownKey(content) };
    if (digestOfKey(name.cookieKey) !== undefined && name.cookieKey !== ownKey(content)) {
      const detail = `a digest names its content, and "${reference}" is ${ownKey(content)}`;
      throw new DaemonError({ code: "key_refused", key: name.cookieKey, detail });
    }
    const unlock = await this.#locks.lock(name);
    try {
      return { ...name, binding: await this.#bindInspected(name, content) };
    } finally {
      unlock();
    }
  }

  async #bindInspected(name: CookieName, content: Content): Promise<Binding> {
    const { bindings } = this.#parts;
    const before = bindings.get(name);
    const moved = before !== undefined && !isSameImage(before, content);
    if (moved && (await this.#isMounted(name))) {
      const detail = `it is mounted and names ${before.manifestDigest}`;
      throw new DaemonError({ code: "key_refused", key: name.cookieKey, detail });
    }
    if (before?.inspected !== undefined && !moved) {
      const isNewest = this.#knownAs(content.reference, undefined)?.binding === before;
      // A tag that came back to this content: bound anew, it counts as the newest again.
      return isNewest ? before : bindings.bind(name, { ...content, devices: before.devices });
    }
    const bound = await bindings.bind(name, content);
    if (bound.inspected !== undefined) return bound;
    const head = await this.#pinHead(bound);
    try {
      const inspected = await this.#inspect(name, bound, head);
      this.#holdHead(name.cookieKey, head);
      return inspected;
    } catch (error) {
      head.release();
      throw error;
    }
  }

  async #seed(seeds: readonly Seed[]): Promise<void> {
    const { engine, seed } = this.#parts;
    await seed(seeds.filter(({ volumeKey, cookieKey }) => !engine.isOpen(volumeKey, cookieKey)));
  }

  #knownAs(
    reference: string,
    fsid: string | undefined,
  ): (CookieName & { readonly binding: Binding }) | undefined {
    let latest: (CookieName & { readonly binding: Binding }) | undefined;
    for (const known of this.#parts.bindings.all()) {
      const { cookieKey, binding } = known;
      const isOurs = fsid === undefined ? isDigest(cookieKey) : cookieKey === fsid;
      // A tag that moved has a digest key for each content: the last one bound is the newest.
      if (isOurs && binding.reference === reference && binding.inspected !== undefined) {
        latest = known;
      }
    }
    return latest;
  }

  /** The record whose size its source confirms, where images disagree about a blob's size. */
  async #confirmed(records: readonly StreamRecord[]): Promise<StreamRecord | undefined> {
    if (records.length <= 1) return records[0];
    for (const record of records) {
      if (await this.#parts.engine.confirmSize(await this.#parts.streams.open(record)))
        return record;
    }
    return undefined;
  }

  async #checkServable({ cookieKey }: CookieName, current: Binding): Promise<void> {
    this.#checkIntegrity(current.stream, cookieKey);
    if (current.stream.format === undefined || (await this.#parts.streams.isComplete(current)))
      return;
    const detail = "its bootstrap or a chunk map is gone from the state directory";
    throw new DaemonError({ code: "key_unknown", key: cookieKey, detail });
  }

  async #found(record: StreamRecord, copenSize: number, release: () => void): Promise<Found> {
    this.#checkIntegrity(record, record.digest);
    return { stream: await this.#parts.streams.open(record), copenSize, release };
  }

  #checkIntegrity({ format }: StreamRecord, where: string): void {
    if (format !== undefined || this.#parts.integrity === "prefer") return;
    const detail =
      'a raw EROFS layer has no digests per chunk, and integrity = "require" asks for them';
    throw new DaemonError({ code: "image_unsupported", where, detail });
  }

  /** What the name stands for now; its binding is on disk. */
  async #current(name: CookieName, bound: Binding | undefined): Promise<Binding> {
    const { bindings, references } = this.#parts;
    if (bound !== undefined) {
      const fixed = isDigest(name.cookieKey) || references.isImmutable(bound.reference);
      if (fixed || (await this.#isMounted(name))) return bound;
    }
    const reference = bound?.reference ?? name.cookieKey;
    const content = await this.#resolve(reference, bound, { signal: this.#stopping.signal });
    if (content === undefined) {
      if (bound === undefined) throw new Error(`"${reference}" has no content`);
      return bound;
    }
    if (bound?.manifestDigest === content.manifestDigest) return bound;
    return bindings.bind(name, content);
  }

  async #isMounted(name: CookieName): Promise<boolean> {
    const { engine, mayBeMounted } = this.#parts;
    return engine.isOpen(name.volumeKey, name.cookieKey) || (await mayBeMounted(name));
  }

  /** Undefined: the registry is away, and `bound` holds what the name stood for. */
  async #resolve(
    reference: string,
    bound: Binding | undefined,
    { signal, ready }: Pick<Preparing, "signal" | "ready">,
  ): Promise<Content | undefined> {
    const late = this.#late.get(reference);
    if (late !== undefined) {
      this.#late.delete(reference);
      return late;
    }
    const { clock, log, openTimeoutMs, references } = this.#parts;
    const startMs = clock.nowMs();
    const patience =
      bound === undefined
        ? { deadlineMs: startMs + 4 * openTimeoutMs }
        : { deadlineMs: startMs + Math.min(RESOLVE_BOUND_MS, openTimeoutMs / 2), attemptsMax: 1 };
    try {
      const resolved = await references.resolve(reference, { signal, ...patience });
      // A Nydus image is taken in from here on.
      await ready;
      const content = await this.#contentOf(resolved, {
        signal,
        deadlineMs: startMs + 4 * openTimeoutMs,
      });
      if (clock.nowMs() - startMs > openTimeoutMs) this.#late.set(reference, content);
      return content;
    } catch (error) {
      const fault = asDaemonError(error);
      if (bound === undefined || !AWAY.includes(fault.fault.code)) throw fault;
      log.warn(
        { reference, manifest: bound.manifestDigest, code: fault.fault.code },
        `served as it was bound before: ${fault.message}`,
      );
      return undefined;
    }
  }

  async #contentOf(resolved: ResolvedReference, options: FetchOptions): Promise<Content> {
    if (resolved.kind === "rafs") return this.#admitted(resolved, options);
    if (resolved.kind === "bootstrap") return this.#parts.admit(resolved, options);
    const { reference, manifestDigest, stream, devices } = resolved;
    return { reference, manifestDigest, stream, devices: [...devices] };
  }

  /** An image that was taken in before, by whatever name, is not fetched again. */
  async #admitted(resolved: ResolvedRAFS, options: FetchOptions): Promise<Content> {
    const { bindings, streams, admit } = this.#parts;
    for (const { binding } of bindings.all()) {
      const { manifestDigest, stream, devices, inspected } = binding;
      if (manifestDigest !== resolved.manifestDigest || stream.format !== "bootstrap") continue;
      if (!(await streams.isComplete(binding))) break;
      return { reference: resolved.reference, manifestDigest, stream, devices, inspected };
    }
    return admit(resolved, options);
  }

  async #pinHead(binding: Binding): Promise<PinnedHead> {
    const { engine, streams } = this.#parts;
    return engine.flowOf(await streams.open(binding.stream)).pinHead();
  }

  async #inspect(name: CookieName, current: Binding, head: PinnedHead): Promise<Binding> {
    const { bindings, servesCompressed, log } = this.#parts;
    const facts = await inspectPrimary(head, {
      where: current.reference,
      stream: current.stream,
      devices: current.devices,
      isDigestKey: isDigest(name.cookieKey),
      servesCompressed,
    });
    log.warn(
      { key: name.cookieKey, stream: current.stream.digest },
      "a raw EROFS layer: its bytes cannot be verified piece by piece",
    );
    const { compressed, devices, tags } = facts;
    const inspected = tags.some((tag) => tag !== "")
      ? { compressed, tags: [...tags] }
      : { compressed };
    return bindings.bind(name, { ...current, devices: [...devices], inspected });
  }

  #holdHead(cookieKey: string, head: PinnedHead): void {
    this.#heldHeads.get(cookieKey)?.();
    if (this.#heldHeads.size >= this.#parts.heldHeadsMax) {
      head.release();
      return;
    }
    const release = (): void => {
      cancel();
      this.#heldHeads.delete(cookieKey);
      head.release();
    };
    const cancel = this.#parts.clock.after(HELD_HEAD_MS, release);
    this.#heldHeads.set(cookieKey, release);
  }
}
