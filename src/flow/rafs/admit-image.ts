// SPDX-License-Identifier: Apache-2.0
// Takes a Nydus image in: reads its bootstrap, finds the chunk infos of each blob, and merges
// what the image vouches for with what is trusted of these blobs already. When this returns, all
// of it is on disk and the image may be bound; when it throws, nothing is trusted that was not.
//
//   bootstrap -> blob table -> rows: the digests it vouches for
//             -> chunk infos of blobs not known yet: the .blob.meta beside it, or a range (also
//                when that file turns out to be another blob's)
//             -> chunk maps: infos checked against rows, rows against other images' rows

import { DaemonError, asDaemonError } from "../../errors.ts";
import type { RafsBlob } from "../../image/rafs/blob-table.ts";
import { buildChunkMap } from "../../image/rafs/build-chunk-map.ts";
import type { RafsChunkMap } from "../../image/rafs/chunk-map.ts";
import type { BlobRows } from "../../image/rafs/chunk-table.ts";
import { nextTurn } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { BlobLocation, FetchOptions } from "../../source/source.ts";
import type { Content, StreamRecord } from "../../state/bindings.ts";
import type { StoredBootstrap, StreamStore } from "../../state/stream-store.ts";
import { type Digest, isDigest } from "../../units.ts";
import type { Streams } from "../streams.ts";
import {
  type ChunkInfo,
  type ChunkInfoParts,
  fetchChunkInfo,
  readBlobMeta,
} from "./fetch-chunk-info.ts";
import { readBootstrap } from "./read-bootstrap.ts";

/** Rows that are looked at before others get their turn: some milliseconds. */
const SLICE_ROWS = 20_000;

export interface AdmitParts extends ChunkInfoParts {
  readonly store: StreamStore;
  readonly streams: Streams;
  readonly log: Log;
  /** The content of known images that hold this digest in another way, in words. */
  readonly otherUse: (digest: Digest) => string | undefined;
  /** Deletes what is cached under this digest, in every volume. */
  readonly dropCached: (digest: Digest) => Promise<void>;
}

export interface IncomingImage {
  /** Names the image in faults and in its binding. */
  readonly reference: string;
  /** Undefined: it has no manifest; its bootstrap's digest stands for it. */
  readonly manifestDigest: Digest | undefined;
  readonly bootstrapPath: string;
  /** Path of `<id>.blob.meta`, if it came with the bootstrap. */
  readonly blobMeta: (id: string) => Promise<string | undefined>;
  /** What the name is bound to already: taken in again only when the bootstrap is another. */
  readonly known?: Content | undefined;
  /** Where a blob's stored bytes are. */
  readonly locate: (id: Digest) => BlobLocation;
}

interface FoundBlob {
  readonly blob: RafsBlob;
  readonly digest: Digest;
  readonly rows: BlobRows;
  /** Undefined when a map of the blob was known. */
  readonly built: RafsChunkMap | undefined;
}

export class RafsAdmission {
  readonly #parts: AdmitParts;
  /** One image after the other says what it vouches for: two that share a blob must agree. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(parts: AdmitParts) {
    this.#parts = parts;
  }

  /** What to bind. Faults: image_invalid, image_unsupported, digest_mismatch, the source's. */
  async admit(image: IncomingImage, options: FetchOptions): Promise<Content> {
    const where = image.reference;
    const unchanged = await this.#unchanged(image);
    if (unchanged !== undefined) return unchanged;
    let found: readonly FoundBlob[] = [];
    const { store } = this.#parts;
    // What is looked at is the copy that will be served: the file itself may change meanwhile.
    const bootstrap = await store.addBootstrap(image.bootstrapPath, async (copyPath) => {
      found = await this.#findBlobs(copyPath, { ...options, image });
      const merged = this.#turn.then(() => this.#merge(found, where));
      this.#turn = merged.catch(() => undefined);
      await merged;
    });
    const devices = found.map(({ digest, blob }) => recordOf(image.locate(digest), blob));
    return contentOf(image, this.#bootstrapRecord(bootstrap), devices);
  }

  async #findBlobs(
    bootstrapPath: string,
    options: FetchOptions & { readonly image: IncomingImage },
  ): Promise<FoundBlob[]> {
    const { blobs, rows } = await readBootstrap(bootstrapPath, options.image.reference);
    return Promise.all(
      blobs.map(async (blob, index): Promise<FoundBlob> => {
        const digest = digestOf(blob.id);
        const rowsOf = rows[index];
        if (rowsOf === undefined) throw new Error("every blob has its rows");
        const isKnown = (await this.#mapOf(digest)) !== undefined;
        const built = isKnown ? undefined : await this.#build(blob, rowsOf, options);
        return { blob, digest, rows: rowsOf, built };
      }),
    );
  }

  async #unchanged({ known, bootstrapPath, locate }: IncomingImage): Promise<Content | undefined> {
    const { store, streams } = this.#parts;
    if (known === undefined || !(await streams.isComplete(known))) return undefined;
    if ((await store.digestOf(bootstrapPath)) !== known.stream.digest) return undefined;
    // Where the blobs come from may have changed.
    const devices = known.devices.map((device) => ({
      ...device,
      origin: locate(device.digest).origin,
    }));
    const { reference, manifestDigest, stream, inspected } = known;
    return { reference, manifestDigest, stream, devices, inspected };
  }

  // Nothing is added to what is trusted before every blob is agreed on.
  async #merge(found: readonly FoundBlob[], where: string): Promise<void> {
    const { streams, dropCached } = this.#parts;
    const maps = [];
    for (const { blob, digest, rows, built } of found) {
      this.#refuseOtherUse(digest, where);
      const before = await this.#mapOf(digest);
      const map = before ?? built;
      if (map === undefined) throw new DaemonError({ code: "cancelled", what: `blob ${digest}` });
      if (before !== undefined) await checkKnown(before, blob, { rows, where });
      maps.push({ digest, map, rows, isNew: before === undefined });
    }
    for (const { digest, map, rows, isNew } of maps) {
      // Bytes cached for a blob that nothing is known of were verified by nobody knows what.
      if (isNew) await dropCached(digest);
      // A map that was built has the rows it was built with.
      const hasNew = isNew || (await addRows(map, rows, where));
      if (hasNew || streams.isUnsaved(digest)) await streams.keepMap(digest, map);
    }
  }

  async #mapOf(digest: Digest): Promise<RafsChunkMap | undefined> {
    try {
      return await this.#parts.streams.mapOf(digest);
    } catch (error) {
      // Said by the store, which set it aside: it is built again.
      const fault = asDaemonError(error);
      if (fault.fault.code !== "state_damaged") throw fault;
      return undefined;
    }
  }

  async #build(
    blob: RafsBlob,
    rows: BlobRows,
    options: FetchOptions & { readonly image: IncomingImage },
  ): Promise<RafsChunkMap> {
    const { image } = options;
    const where = image.reference;
    const metaId = blob.features.separate ? (blob.metaDigest ?? blob.id) : blob.id;
    for (const id of new Set([blob.id, metaId])) {
      const path = await image.blobMeta(id);
      const map = path === undefined ? undefined : await this.#buildFrom(path, blob, rows, where);
      if (map !== undefined) return map;
    }
    const location = image.locate(digestOf(metaId));
    this.#parts.log.debug({ blob: metaId }, "fetching the chunk infos of a blob");
    const found = await fetchChunkInfo(this.#parts, blob, location, { ...options, where });
    return buildMap(blob, found, rows, where);
  }

  // Such a file came with the image, but whether it is this blob's only its content tells.
  async #buildFrom(
    path: string,
    blob: RafsBlob,
    rows: BlobRows,
    where: string,
  ): Promise<RafsChunkMap | undefined> {
    try {
      const found = await readBlobMeta(path, blob, where);
      return found === undefined ? undefined : await buildMap(blob, found, rows, where);
    } catch (error) {
      const { fault, message } = asDaemonError(error);
      const detail = `${path} is not used: ${message}; chunk infos are fetched instead`;
      this.#parts.log.warn({ code: fault.code, blob: blob.id }, detail);
      return undefined;
    }
  }

  #bootstrapRecord({ digest, size }: StoredBootstrap): StreamRecord {
    const repository = this.#parts.store.bootstrapDirectory;
    const origin = { kind: "directory", host: "directory", repository } as const;
    return { digest, size, origin, format: "bootstrap" };
  }

  #refuseOtherUse(digest: Digest, where: string): void {
    const other = this.#parts.otherUse(digest);
    if (other === undefined) return;
    const detail = `its blob ${digest} is ${other}: it contradicts a known image`;
    throw new DaemonError({ code: "image_invalid", where, detail });
  }
}

async function buildMap(
  blob: RafsBlob,
  { info, header }: ChunkInfo,
  rows: BlobRows,
  where: string,
): Promise<RafsChunkMap> {
  const building = buildChunkMap({ blob, ci: info, header, rows, where });
  for (;;) {
    const step = building.next();
    if (step.done === true) return step.value;
    await nextTurn();
  }
}

async function checkKnown(
  map: RafsChunkMap,
  blob: RafsBlob,
  { rows, where }: { rows: BlobRows; where: string },
): Promise<void> {
  if (map.sizeBytes !== blob.sizeBytes || map.digester !== blob.digester) {
    const detail = `its blob ${blob.id} has ${blob.sizeBytes} bytes and ${blob.digester} digests, which contradicts what a trusted image says of it (${map.sizeBytes}, ${map.digester})`;
    throw new DaemonError({ code: "image_invalid", where, detail });
  }
  for (const slice of slicesOf(rows)) {
    map.checkRows(slice, where);
    await nextTurn();
  }
}

/** True when there was a row of which the map had no digest. */
async function addRows(map: RafsChunkMap, rows: BlobRows, where: string): Promise<boolean> {
  let hasNew = false;
  for (const slice of slicesOf(rows)) {
    if (map.addRows(slice, where)) hasNew = true;
    await nextTurn();
  }
  return hasNew;
}

function* slicesOf({ ciIndex, at, words }: BlobRows): Iterable<BlobRows> {
  for (let from = 0; from < ciIndex.length; from += SLICE_ROWS) {
    const end = from + SLICE_ROWS;
    yield { ciIndex: ciIndex.subarray(from, end), at: at.subarray(from, end), words };
  }
}

function contentOf(image: IncomingImage, stream: StreamRecord, devices: StreamRecord[]): Content {
  return {
    reference: image.reference,
    manifestDigest: image.manifestDigest ?? stream.digest,
    stream,
    devices,
    inspected: { compressed: false },
  };
}

function recordOf({ origin, digest, size }: BlobLocation, blob: RafsBlob): StreamRecord {
  return { digest, size: blob.sizeBytes, origin, format: "rafs", storedSize: size };
}

function digestOf(id: string): Digest {
  const digest = `sha256:${id}`;
  if (!isDigest(digest)) throw new Error(`a blob id is 64 hex digits, not ${id}`);
  return digest;
}
