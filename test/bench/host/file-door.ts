// SPDX-License-Identifier: Apache-2.0
// A door without a kernel: what the kernel opens is a plain sparse file in a directory, written
// by the addon as the kernel's own cache files are. Reads are what the kernel would make of them:
// only what the file lacks is asked for, one READ at a time for each reader.

import { constants } from "node:fs";
import { join } from "node:path";
import { BlockSet } from "../../../src/cache/block-set.ts";
import { DaemonError } from "../../../src/errors.ts";
import { PendingRequest } from "../../../src/kernel/pending-request.ts";
import type { KernelHandler, KernelObject, ReadRequest } from "../../../src/kernel/transport.ts";
import type { Native } from "../../../src/platform/native.ts";
import { OwnedFd } from "../../../src/platform/owned-fd.ts";
import { BLOCK_BYTES, type Extent, alignUp } from "../../../src/units.ts";

const EXTENTS_MAX = 1 << 16;

export class FileObject implements KernelObject {
  readonly seesHits = false;
  readonly id: number;
  readonly volumeKey: string;
  readonly cookieKey: string;
  readonly cached: BlockSet;
  readonly #native: Native;
  readonly #fd: OwnedFd;
  writtenBytes = 0;

  constructor(native: Native, path: string, of: { id: number; key: Key; sizeBytes: number }) {
    this.id = of.id;
    this.volumeKey = of.key.volumeKey;
    this.cookieKey = of.key.cookieKey;
    this.cached = new BlockSet(of.sizeBytes);
    this.#native = native;
    this.#fd = new OwnedFd(native.open(path, constants.O_RDWR | constants.O_CREAT), native);
  }

  async write(bytes: Uint8Array, range: Parameters<KernelObject["write"]>[1]): Promise<void> {
    await this.#fd.borrow((fd) => this.#native.pwriteAligned(fd, bytes, range));
    this.cached.add({ offset: range.fileOffset, length: range.length });
    this.writtenBytes += range.length;
  }

  async dataExtents(sizeBytes: number): Promise<Extent[]> {
    const within = { from: 0, sizeBytes: alignUp(sizeBytes, BLOCK_BYTES), extentsMax: EXTENTS_MAX };
    const found = await this.#fd.borrow((fd) => this.#native.dataExtents(fd, within));
    const extents: Extent[] = [];
    for (let at = 0; at + 1 < found.length; at += 2) {
      const offset = found[at] ?? 0;
      extents.push({ offset, length: (found[at + 1] ?? offset) - offset });
    }
    return extents;
  }

  close(): Promise<void> {
    return this.#fd.close();
  }
}

interface Key {
  readonly volumeKey: string;
  readonly cookieKey: string;
}

export class FileDoor {
  readonly #native: Native;
  readonly #directory: string;
  readonly #handler: KernelHandler;
  readonly #objects: FileObject[] = [];
  /** READs asked. */
  reads = 0;

  constructor(native: Native, directory: string, handler: KernelHandler) {
    this.#native = native;
    this.#directory = directory;
    this.#handler = handler;
  }

  open(key: Key): Promise<FileObject> {
    return new Promise((resolve, reject) => {
      const pending = new PendingRequest(`OPEN of "${key.cookieKey}"`, () => undefined);
      this.#handler.open({
        ...key,
        get answered() {
          return pending.answered;
        },
        accept: (sizeBytes) => {
          let object: FileObject | undefined;
          pending.answer(() => {
            const id = this.#objects.length + 1;
            const path = join(this.#directory, `object-${id}`);
            object = new FileObject(this.#native, path, { id, key, sizeBytes });
            this.#objects.push(object);
            resolve(object);
          });
          return object;
        },
        refuse: (error) => {
          pending.answer(() => {
            reject(error);
          });
        },
      });
    });
  }

  /** A read of whole blocks; resolves with the number of READs it took when all is there. */
  async read(object: FileObject, extent: Extent): Promise<number> {
    let asked = 0;
    for (;;) {
      const [missing] = object.cached.missing(extent);
      if (missing === undefined) return asked;
      await this.ask(object, missing);
      asked += 1;
      if (!object.cached.covers(missing)) {
        const what = `${missing.length} bytes at ${missing.offset} of "${object.cookieKey}"`;
        throw new Error(`a READ of ${what} was answered without them`);
      }
    }
  }

  /** One READ, whether or not it is needed. */
  ask(object: FileObject, extent: Extent): Promise<void> {
    this.reads += 1;
    return new Promise((resolve, reject) => {
      const pending = new PendingRequest(`READ of "${object.cookieKey}"`, () => undefined);
      const request: ReadRequest = {
        id: pending.id,
        object,
        extent,
        get answered() {
          return pending.answered;
        },
        complete: () => {
          pending.answer(resolve);
        },
        fail: (error: DaemonError) => {
          pending.answer(() => {
            reject(error);
          });
        },
      };
      this.#handler.read(request);
    });
  }

  async close(): Promise<void> {
    for (const object of this.#objects) {
      this.#handler.closed(object);
      await object.close();
    }
  }
}
