// SPDX-License-Identifier: Apache-2.0
// From what state knows of a stream to one that can be served: its chunk map, where its stored
// bytes come from and how they are verified.

import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { DecodeUnit, Decoder } from "../decoder/unit-decoder.ts";
import { DaemonError, invariant } from "../errors.ts";
import { rawChunkMap } from "../image/chunk-map.ts";
import { RafsChunkMap } from "../image/rafs/chunk-map.ts";
import { type Origin, type Source, formatOrigin } from "../source/source.ts";
import type { Content, StreamRecord } from "../state/bindings.ts";
import type { StreamStore } from "../state/stream-store.ts";
import { type Digest, MIB } from "../units.ts";
import type { Stream } from "./stream.ts";

/** Maps of blobs that nobody has open are kept, this many of them and this many bytes. */
const IDLE_MAPS_MAX = 64;
const IDLE_MAPS_BYTES_MAX = 256 * MIB;

export interface StreamsParts {
  readonly source: Source;
  readonly store: StreamStore;
  readonly decoder: () => Promise<Decoder>;
  /** The stream of this key that is being served now. */
  readonly live: (key: string) => Stream | undefined;
}

export function streamKey(record: Pick<StreamRecord, "digest" | "format">): string {
  return `${record.format ?? "raw"}:${record.digest}`;
}

/** The key of a device as a mount over fscache asks for it. */
export function deviceKey({ digest, format }: Pick<StreamRecord, "digest" | "format">): string {
  return format === "rafs" ? digest.slice("sha256:".length) : digest;
}

export class Streams {
  readonly #parts: StreamsParts;
  readonly #maps = new LRUCache<Digest, RafsChunkMap>({
    max: IDLE_MAPS_MAX,
    maxSize: IDLE_MAPS_BYTES_MAX,
    sizeCalculation: ({ memoryBytes }) => memoryBytes,
  });
  /** Every map that somebody still has: a stream about to be served, an image on its way in. */
  readonly #known = new Map<Digest, WeakRef<RafsChunkMap>>();
  /** Maps whose last save did not succeed: what is on disk is older. */
  readonly #unsaved = new Set<Digest>();
  readonly #loading = new Map<Digest, Promise<RafsChunkMap | undefined>>();

  constructor(parts: StreamsParts) {
    this.#parts = parts;
  }

  /** Faults: key_unknown when what it takes to serve it is gone, state_damaged. */
  async open(record: StreamRecord): Promise<Stream> {
    const { source } = this.#parts;
    if (record.format !== "rafs") return rawStream(record, source);
    const map = await this.mapOf(record.digest);
    if (map === undefined) {
      const detail = "its chunk map is gone; mount or bind the image again";
      throw new DaemonError({ code: "key_unknown", key: record.digest, detail });
    }
    const makeDecoder = await this.#parts.decoder();
    const { digest, origin } = record;
    const where = formatOrigin(origin);
    const blob = { origin, digest, size: record.storedSize };
    return {
      key: streamKey(record),
      digest,
      map,
      where,
      host: hostOf(origin),
      rangeHint: () => source.rangeHint?.(origin),
      decode: makeDecoder({ digester: map.digester, blob: digest, where }),
      fetch: (stored, onPiece, options) => source.readRange(blob, stored, onPiece, options),
    };
  }

  /**
   * The one chunk map of a Nydus blob; undefined when none is known. There is never a second
   * one: what an image adds to it must be seen by everyone. Fault: state_damaged.
   */
  async mapOf(blob: Digest): Promise<RafsChunkMap | undefined> {
    const known = this.#inMemory(blob);
    return known ?? this.#loading.get(blob) ?? this.#load(blob);
  }

  /** Its last save failed: it must be kept again before anything may rely on it. */
  isUnsaved(blob: Digest): boolean {
    return this.#unsaved.has(blob);
  }

  /** True when the files that a Nydus image is served from are all there. */
  async isComplete({ stream, devices }: Pick<Content, "stream" | "devices">): Promise<boolean> {
    if (!(await this.#parts.store.hasBootstrap(stream.digest, stream.size))) return false;
    for (const { digest } of devices) {
      const map = await this.mapOf(digest).catch(() => undefined);
      if (map === undefined) return false;
    }
    return true;
  }

  /** Keeps a map that was built, or added to; resolves when it is on disk. */
  async keepMap(blob: Digest, map: RafsChunkMap): Promise<void> {
    this.#remember(blob, map);
    this.#unsaved.add(blob);
    await this.#parts.store.saveMap(blob, map);
    this.#unsaved.delete(blob);
  }

  #load(blob: Digest): Promise<RafsChunkMap | undefined> {
    const loading = this.#parts.store
      .loadMap(blob)
      .then((map) => {
        // One that was built meanwhile is the one.
        const known = this.#inMemory(blob) ?? map;
        if (known !== undefined) this.#remember(blob, known);
        return known;
      })
      .finally(() => this.#loading.delete(blob));
    this.#loading.set(blob, loading);
    return loading;
  }

  #inMemory(blob: Digest): RafsChunkMap | undefined {
    const live = this.#parts.live(streamKey({ digest: blob, format: "rafs" }))?.map;
    if (live instanceof RafsChunkMap) return live;
    return this.#maps.get(blob) ?? this.#known.get(blob)?.deref();
  }

  #remember(blob: Digest, map: RafsChunkMap): void {
    this.#maps.set(blob, map);
    for (const [digest, known] of this.#known) {
      if (known.deref() === undefined) this.#known.delete(digest);
    }
    this.#known.set(blob, new WeakRef(map));
  }
}

/** A stream whose logical bytes are its blob's stored bytes. */
export function rawStream(record: StreamRecord, source: Source): Stream {
  const { digest, size, origin } = record;
  const where = formatOrigin(origin);
  return {
    key: streamKey(record),
    digest,
    map: rawChunkMap(size),
    where,
    host: hostOf(origin),
    rangeHint: () => source.rangeHint?.(origin),
    decode: neverDecoded,
    fetch: (stored, onPiece, options) => source.readRange(record, stored, onPiece, options),
    verifyWhole: (bytes) => {
      const actual = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
      if (actual !== digest) {
        throw new DaemonError({ code: "digest_mismatch", where, expected: digest, actual });
      }
    },
  };
}

/** A directory is its own host. */
function hostOf({ kind, host, repository }: Origin): string {
  return kind === "registry" ? host : `${host}:${repository}`;
}

const neverDecoded: DecodeUnit = () => {
  invariant(false, "a raw stream has no units");
};
