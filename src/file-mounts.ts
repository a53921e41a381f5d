// SPDX-License-Identifier: Apache-2.0
// Prepares images for doors of files: their streams are opened, and what nobody can be asked for
// later is in their files before anybody may mount them. At the fanotify door that is what the kernel
// reads without asking, on Linux 6.18 all metadata (kernel-notes/fanotify-metadata.md); at an image
// that has its metadata on a device of its own it is all of that. Without such a door it is
// everything, and it is verified: chunk by chunk as it comes, or by the blob's digest.

import { createHash } from "node:crypto";
import { DaemonError, asDaemonError, invariant } from "./errors.ts";
import { FILL_BYTES, Filler } from "./file-filler.ts";
import { deviceKey } from "./flow/streams.ts";
import type { Stream } from "./flow/stream.ts";
import type { ChunkMap } from "./image/chunk-map.ts";
import { ErofsReader } from "./image/erofs/inode.ts";
import { hasKnownMetadata, metadataExtents, metadataPlaces } from "./image/erofs/metadata.ts";
import { SUPERBLOCK_HEAD_BYTES, parseSuperblock } from "./image/erofs/superblock.ts";
import type { FileDoor } from "./kernel/fanotify/file-door.ts";
import type { FileObject } from "./kernel/fanotify/file-object.ts";
import type { OpenedFile } from "./kernel/fanotify/open-entry.ts";
import { type Clock, cancelledBy, nextTurn } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import { formatOrigin } from "./source/source.ts";
import type { Binding, CookieName, StreamRecord } from "./state/bindings.ts";
import { BLOCK_BYTES, type Extent, KIB, alignUp, extentEnd } from "./units.ts";

/** A part of a whole image is asked for so often: much has come already. */
const TRIES = 3;
const HASH_BYTES = 512 * KIB;

/** Files that can be mounted until `release`, and from then on as long as they are. */
export interface PreparedFiles {
  readonly primary: string;
  /** In the device table's order. */
  readonly devices: readonly string[];
  /** Idempotent. They can be mounted for `mountWithinMs` more. */
  readonly release: (mountWithinMs: number) => void;
}

export interface PrepareOptions {
  /** Nobody wants it any more. */
  readonly signal: AbortSignal;
  /** Everything, verified. A door that cannot ask prepares no image otherwise. */
  readonly isWhole: boolean;
  /** Logical bytes of the image that are there, of all that will be. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

export interface FileMountsParts {
  readonly door: FileDoor;
  readonly clock: Clock;
  readonly log: Log;
  readonly streams: { open(record: StreamRecord): Promise<Stream> };
}

type Image = CookieName & { readonly binding: Binding };

export class FileMounts {
  readonly #parts: FileMountsParts;
  /** What was found to be what its digest says, since it was opened. */
  readonly #verified = new WeakSet<FileObject>();

  constructor(parts: FileMountsParts) {
    this.#parts = parts;
  }

  /**
   * Resolves with the paths to mount the image by. Faults: the handler's for an OPEN or a READ,
   * image_invalid, digest_mismatch, cancelled.
   */
  async prepare(image: Image, options: PrepareOptions): Promise<PreparedFiles> {
    const { volumeKey, cookieKey, binding } = image;
    const opened: OpenedFile[] = [];
    const release = (mountWithinMs: number): void => {
      for (const file of opened) file.release(mountWithinMs);
    };
    try {
      const keys = [cookieKey, ...binding.devices.map(deviceKey)];
      for (const key of keys)
        opened.push(await this.#parts.door.open({ volumeKey, cookieKey: key }));
      const paths = options.isWhole
        ? await this.#prepareWhole(opened, binding, options)
        : await this.#prepareMetadata(opened, binding, options);
      const [primary, ...devices] = paths;
      invariant(primary !== undefined, "an image has a primary device");
      return { primary, devices, release };
    } catch (error) {
      release(0);
      throw error;
    }
  }

  async #prepareMetadata(
    opened: readonly OpenedFile[],
    binding: Binding,
    { signal }: PrepareOptions,
  ): Promise<string[]> {
    const [primary] = opened;
    invariant(primary !== undefined, "an image has a primary device");
    await this.#fillMetadata(primary.object, binding, signal);
    return opened.map(({ path }) => path);
  }

  async #prepareWhole(
    opened: readonly OpenedFile[],
    { stream, devices }: Binding,
    { signal, onProgress }: PrepareOptions,
  ): Promise<string[]> {
    const parts: { file: OpenedFile; record: StreamRecord; extents: Extent[] }[] = [];
    for (const [index, record] of [stream, ...devices].entries()) {
      const file = opened[index];
      invariant(file !== undefined, "every stream is opened");
      const { map } = await this.#parts.streams.open(record);
      parts.push({ file, record, extents: [...servedExtents(map)] });
    }
    const totalBytes = parts
      .flatMap(({ extents }) => extents)
      .reduce((sum, { length }) => sum + length, 0);
    let doneBytes = 0;
    const onFilled = (bytes: number): void => {
      doneBytes += bytes;
      onProgress?.(doneBytes, totalBytes);
    };
    for (const { file, record, extents } of parts) {
      const all = { offset: 0, length: alignUp(record.size, BLOCK_BYTES) };
      const { clock, door } = this.#parts;
      const fill = new Filler(door, file.object, { all, clock, signal, tries: TRIES, onFilled });
      await fill.each(extents);
      if (record.format !== "rafs") await this.#verify(file.object, record, signal);
    }
    return Promise.all(opened.map((file) => file.wholePath()));
  }

  /** All of it is there; its digest says what it must be. */
  async #verify(object: FileObject, record: StreamRecord, signal: AbortSignal): Promise<void> {
    if (this.#verified.has(object)) return;
    const { door, log } = this.#parts;
    const hash = createHash("sha256");
    for (let offset = 0; offset < record.size; offset += HASH_BYTES) {
      if (signal.aborted) throw cancelledBy(signal);
      const length = Math.min(HASH_BYTES, record.size - offset);
      hash.update(await door.readBack(object, { offset, length }));
      await nextTurn();
    }
    const [expected, actual] = [record.digest, `sha256:${hash.digest("hex")}`];
    if (actual !== expected) {
      log.error({ key: object.cookieKey, actual }, "an image is not what its digest says: dropped");
      await door.distrust(object);
      const where = formatOrigin(record.origin);
      throw new DaemonError({ code: "digest_mismatch", where, expected, actual });
    }
    this.#verified.add(object);
  }

  async #fillMetadata(
    object: FileObject,
    { stream, reference }: Binding,
    signal: AbortSignal,
  ): Promise<void> {
    const all = { offset: 0, length: alignUp(stream.size, BLOCK_BYTES) };
    const { clock, door } = this.#parts;
    const fill = new Filler(door, object, { all, clock, signal, tries: 1 });
    if (stream.format === "bootstrap") return fill.range(all);
    try {
      if (await this.#fillWalking(object, fill, { stream, where: reference })) return;
    } catch (error) {
      if (asDaemonError(error).fault.code !== "image_invalid") throw error;
      const { message } = asDaemonError(error);
      this.#parts.log.warn({ key: object.cookieKey }, `all of it is fetched first: ${message}`);
    }
    await fill.range(all);
  }

  /** False when its metadata cannot be told from its data. */
  async #fillWalking(
    object: FileObject,
    fill: Filler,
    { stream, where }: { stream: StreamRecord; where: string },
  ): Promise<boolean> {
    const { door } = this.#parts;
    const readAt = async (offset: number, length: number): Promise<Uint8Array> => {
      await fill.range({ offset, length });
      return door.readBack(object, { offset, length });
    };
    const head = await readAt(0, Math.min(SUPERBLOCK_HEAD_BYTES, stream.size));
    const superblock = parseSuperblock(head, where);
    if (!hasKnownMetadata(superblock.features) || superblock.wideBlocks) return false;
    const places = metadataPlaces(head, superblock, where);
    const { metaBlock } = places;
    const sizeBytes = stream.size;
    const file = { readAt, sizeBytes, metaBlock, deviceBlocks: [], where, pause: nextTurn };
    const reader = new ErofsReader(file);
    for await (const extent of metadataExtents(reader, places, superblock)) fill.later(extent);
    await fill.settled();
    return true;
  }
}

/** What of a stream may be served: all of it, but for chunks that no known image vouches for. */
function* servedExtents(map: ChunkMap): Generator<Extent, void> {
  const end = alignUp(map.sizeBytes, BLOCK_BYTES);
  const limits = { logicalBytesMax: FILL_BYTES, storedBytesMax: Infinity };
  for (let at = 0; at < end; ) {
    const length = Math.min(FILL_BYTES, end - at);
    const extent = map.cut(map.widen({ offset: at, length }), limits);
    if (extent.length > 0) yield extent;
    const refused = extent.length > 0 ? extent : map.widen({ offset: at, length: BLOCK_BYTES });
    at = Math.max(extentEnd(refused), at + BLOCK_BYTES);
  }
}
