// SPDX-License-Identifier: Apache-2.0
// Prepares images for the fanotify door: their streams are opened, and what the kernel reads
// without asking is in their files before anybody may mount them. On Linux 6.18 that is all
// metadata (kernel-notes/fanotify-metadata.md); at an image that has its metadata on a device of
// its own it is all of that.

import { DaemonError, asDaemonError } from "./errors.ts";
import { deviceKey } from "./flow/streams.ts";
import { ErofsReader } from "./image/erofs/inode.ts";
import { hasKnownMetadata, metadataExtents, metadataPlaces } from "./image/erofs/metadata.ts";
import { SUPERBLOCK_HEAD_BYTES, parseSuperblock } from "./image/erofs/superblock.ts";
import type { FileObject } from "./kernel/fanotify/file-object.ts";
import type { OpenedFile } from "./kernel/fanotify/open-files.ts";
import type { FanotifySession } from "./kernel/fanotify/session.ts";
import { nextTurn } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Binding, CookieName, StreamRecord } from "./state/bindings.ts";
import { BLOCK_BYTES, type Extent, MIB, alignDown, alignUp, extentEnd } from "./units.ts";

/** So long after the answer an image can be mounted that nobody has mounted yet. */
const MOUNT_WITHIN_MS = 30_000;
const FILL_BYTES = MIB;
const FILLS_AT_ONCE = 8;

export interface MountFiles {
  readonly primary: string;
  /** In the device table's order. */
  readonly devices: readonly string[];
}

export class FileMounts {
  readonly #parts: { door: FanotifySession; log: Log };

  constructor(parts: { door: FanotifySession; log: Log }) {
    this.#parts = parts;
  }

  /**
   * Resolves with the paths to mount the image by, now and for half a minute. `signal`: nobody
   * wants it any more. Faults: the handler's for an OPEN or a READ, image_invalid, cancelled.
   */
  async prepare(
    { volumeKey, cookieKey, binding }: CookieName & { readonly binding: Binding },
    signal: AbortSignal,
  ): Promise<MountFiles> {
    const { door } = this.#parts;
    const opened: OpenedFile[] = [];
    let mountWithinMs = 0;
    try {
      const keys = [cookieKey, ...binding.devices.map(deviceKey)];
      for (const key of keys) opened.push(await door.open({ volumeKey, cookieKey: key }));
      const [primary, ...devices] = opened;
      if (primary === undefined) throw new Error("an image has a primary device");
      await this.#fillMetadata(primary.object, binding, signal);
      mountWithinMs = MOUNT_WITHIN_MS;
      return { primary: primary.path, devices: devices.map(({ path }) => path) };
    } finally {
      for (const file of opened) file.release(mountWithinMs);
    }
  }

  async #fillMetadata(
    object: FileObject,
    { stream, reference }: Binding,
    signal: AbortSignal,
  ): Promise<void> {
    const all = { offset: 0, length: alignUp(stream.size, BLOCK_BYTES) };
    const fill = new Filler(this.#parts.door, object, { all, signal });
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

function* pieces({ offset, length }: Extent): Iterable<Extent> {
  for (let at = 0; at < length; at += FILL_BYTES) {
    yield { offset: offset + at, length: Math.min(FILL_BYTES, length - at) };
  }
}

/** Fills parts of one object, some at once. */
class Filler {
  readonly #door: FanotifySession;
  readonly #object: FileObject;
  readonly #all: Extent;
  readonly #signal: AbortSignal;
  readonly #under = new Set<Promise<void>>();
  /** What was asked for later, whole blocks; neighbours come as one. */
  #later: Extent | undefined;
  #failure: unknown;

  constructor(
    door: FanotifySession,
    object: FileObject,
    { all, signal }: { all: Extent; signal: AbortSignal },
  ) {
    this.#door = door;
    this.#object = object;
    this.#all = all;
    this.#signal = signal;
  }

  /** Resolves when it is there; what lies behind the stream's end is left out. */
  async range(extent: Extent): Promise<void> {
    for (const piece of pieces(this.#blocks(extent))) {
      while (this.#under.size >= FILLS_AT_ONCE) await Promise.race(this.#under);
      this.#start(piece);
    }
    await this.#drained();
  }

  /** It is there when `settled` has resolved. */
  later(extent: Extent): void {
    const { offset, length } = this.#blocks(extent);
    const before = this.#later;
    if (before !== undefined && offset >= before.offset && offset <= extentEnd(before)) {
      const end = Math.max(extentEnd(before), offset + length);
      this.#later = { offset: before.offset, length: end - before.offset };
      if (this.#later.length < FILL_BYTES) return;
      this.#flush();
      return;
    }
    this.#flush();
    this.#later = { offset, length };
  }

  async settled(): Promise<void> {
    this.#flush();
    await this.#drained();
  }

  #flush(): void {
    const extent = this.#later;
    this.#later = undefined;
    if (extent === undefined) return;
    for (const piece of pieces(extent)) this.#start(piece);
  }

  #start(extent: Extent): void {
    if (this.#door.covers(this.#object, extent)) return;
    if (this.#signal.aborted) {
      this.#failure ??= new DaemonError({ code: "cancelled", what: "preparing a mount" });
      return;
    }
    const filling = this.#door
      .fill(this.#object, extent)
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#under.delete(filling));
    this.#under.add(filling);
  }

  async #drained(): Promise<void> {
    while (this.#under.size > 0) await Promise.race(this.#under);
    if (this.#failure !== undefined) throw asDaemonError(this.#failure);
  }

  #blocks(extent: Extent): Extent {
    const end = Math.min(alignUp(extentEnd(extent), BLOCK_BYTES), extentEnd(this.#all));
    const offset = Math.min(alignDown(extent.offset, BLOCK_BYTES), end);
    return { offset, length: end - offset };
  }
}
