// SPDX-License-Identifier: Apache-2.0
// Fills cachefiles' files while the kernel does not have them open. An OPEN of one comes first: its
// file is closed, and only then is the OPEN passed on, so that nobody but the kernel writes into a
// file that it serves from. When the kernel has closed it, filling goes on by name.
//
//   held: idle file open -> OPEN -> closed, the kernel has it -> CLOSE -> idle file open again

import { join } from "node:path";
import type { Culled } from "./cache/cull.ts";
import { type ObjectFile, encodedObjectFile } from "./cache/disk-names.ts";
import { objectAttribute } from "./cache/seed-files.ts";
import { DaemonError, asDaemonError } from "./errors.ts";
import type { Engine } from "./flow/engine.ts";
import type { NameResolver } from "./flow/name-resolver.ts";
import type { StreamHolder } from "./flow/prefetch/job.ts";
import { IdleFile } from "./kernel/cachefiles/idle-file.ts";
import type { KernelHandler, KernelObject, OpenRequest } from "./kernel/transport.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";
import type { CookieName } from "./state/bindings.ts";

const OBJECT_ATTRIBUTE = "user.CacheFiles.cache";
const ATTRIBUTE_BYTES_MAX = 4096;

export interface IdleFilesParts {
  readonly cacheDir: string;
  readonly native: Native;
  readonly log: Log;
  readonly engine: Engine;
  readonly names: Pick<NameResolver, "find">;
  /** Puts a file in place where none is that the kernel would open with this size. */
  readonly place: (object: CookieName & { readonly sizeBytes: number }) => Promise<void>;
  /** Deletes a file unless the kernel has it open. */
  readonly cull: (file: ObjectFile) => Culled;
  readonly stopPercent: { readonly blocks: number; readonly inodes: number };
  readonly writes: { writes: number; writtenBytes: number };
}

interface Held {
  readonly name: CookieName;
  count: number;
  file: IdleFile | undefined;
  /** Its file is being opened; never rejects. */
  opening: Promise<void> | undefined;
}

export class IdleFiles implements StreamHolder {
  readonly #parts: IdleFilesParts;
  readonly #held = new Map<string, Held>();
  /** OPENs that are not answered, and objects that are open, by name. */
  readonly #kernels = new Map<string, number>();
  /** Files whose last write has not ended, by name. */
  readonly #closing = new Map<string, Promise<unknown>>();
  #ids = 0;

  constructor(parts: IdleFilesParts) {
    this.#parts = parts;
  }

  async open(name: CookieName): Promise<{ release(): void }> {
    const id = idOf(name);
    let held = this.#held.get(id);
    if (held === undefined) {
      held = { name, count: 0, file: undefined, opening: undefined };
      this.#held.set(id, held);
    }
    held.count += 1;
    let isHeld = true;
    const release = (): void => {
      if (!isHeld) return;
      isHeld = false;
      this.#release(held);
    };
    try {
      await this.#ensure(held);
      return { release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** `inner`, to which OPENs come when nobody else writes into their files. */
  before(inner: KernelHandler): KernelHandler {
    return {
      open: (request) => {
        void this.#open(inner, request);
      },
      read: (request) => {
        inner.read(request);
      },
      closed: (object) => {
        inner.closed(object);
        this.#kernelLeft(object);
      },
    };
  }

  async #open(inner: KernelHandler, request: OpenRequest): Promise<void> {
    const id = idOf(request);
    this.#kernels.set(id, (this.#kernels.get(id) ?? 0) + 1);
    const held = this.#held.get(id);
    if (held?.opening !== undefined) await held.opening;
    if (held !== undefined) this.#close(held);
    const closing = this.#closing.get(id);
    if (closing !== undefined) await closing;
    inner.open({
      volumeKey: request.volumeKey,
      cookieKey: request.cookieKey,
      get answered() {
        return request.answered;
      },
      accept: (sizeBytes) => {
        const object = request.accept(sizeBytes);
        if (object === undefined) this.#kernelLeft(request);
        return object;
      },
      refuse: (error) => {
        request.refuse(error);
        this.#kernelLeft(request);
      },
    });
  }

  #kernelLeft(name: Pick<KernelObject, "volumeKey" | "cookieKey">): void {
    const id = idOf(name);
    const left = (this.#kernels.get(id) ?? 0) - 1;
    if (left > 0) {
      this.#kernels.set(id, left);
      return;
    }
    this.#kernels.delete(id);
    const held = this.#held.get(id);
    if (held === undefined) return;
    this.#ensure(held).catch((error: unknown) => {
      const { fault, message } = asDaemonError(error);
      this.#parts.log.warn(
        { key: name.cookieKey, code: fault.code },
        `prefetch waits until it is mounted again: ${message}`,
      );
    });
  }

  /** Resolves when it can be filled: by its name, or through the kernel. */
  async #ensure(held: Held): Promise<void> {
    const id = idOf(held.name);
    const { names } = this.#parts;
    if (held.file !== undefined || this.#kernels.has(id)) return;
    const found = await names.find(held.name);
    try {
      // Meanwhile it may have been opened, by the kernel or for somebody else, or given up.
      if (held.file !== undefined || held.count === 0 || this.#kernels.has(id)) return;
      let failure: unknown;
      held.opening ??= this.#openFile(held, found).catch((error: unknown) => {
        failure = error;
      });
      await held.opening;
      held.opening = undefined;
      if (failure !== undefined) throw asDaemonError(failure);
    } finally {
      found.release();
    }
  }

  async #openFile(
    held: Held,
    { stream, copenSize }: Awaited<ReturnType<NameResolver["find"]>>,
  ): Promise<void> {
    const { cacheDir, engine, native, place, cull, stopPercent, writes } = this.#parts;
    const { name } = held;
    const at = encodedObjectFile(cacheDir, name);
    if (at === undefined) {
      const detail = "where the kernel keeps this key is not known";
      throw new DaemonError({ code: "key_refused", key: name.cookieKey, detail });
    }
    const object = { ...name, sizeBytes: copenSize };
    await place(object);
    if (!(await this.#isFor(copenSize, at))) {
      // What the name was before: the kernel would drop it too.
      cull(at);
      await place(object);
      if (!(await this.#isFor(copenSize, at))) {
        const detail = "the kernel has a file of another size open under this key";
        throw new DaemonError({ code: "cache_write_failed", key: name.cookieKey, detail });
      }
    }
    const id = (this.#ids -= 1);
    const path = join(at.directory, at.name);
    const file = await IdleFile.open({ ...name, native, id, path, stopPercent, writes });
    // Nobody waits for it any more.
    if (held.count === 0) {
      await file.close();
      return;
    }
    held.file = file;
    engine.serve(stream, file);
  }

  /** True when the kernel would use what is cached in it. */
  async #isFor(sizeBytes: number, { directory, name }: ObjectFile): Promise<boolean> {
    const path = join(directory, name);
    const attribute = await this.#parts.native
      .getAttribute(path, OBJECT_ATTRIBUTE, ATTRIBUTE_BYTES_MAX)
      .catch(() => new Uint8Array());
    const wanted = objectAttribute(sizeBytes);
    // The last byte says how the content is kept: any that `place` has let stay.
    const known = attribute.subarray(0, wanted.length - 1);
    return Buffer.compare(known, wanted.subarray(0, -1)) === 0;
  }

  #release(held: Held): void {
    held.count -= 1;
    if (held.count > 0) return;
    this.#held.delete(idOf(held.name));
    this.#close(held);
  }

  #close(held: Held): void {
    const { file } = held;
    if (file === undefined) return;
    held.file = undefined;
    this.#parts.engine.closed(file);
    const id = idOf(held.name);
    // Never rejects: the last write on it has an owner of its own.
    const closed = Promise.all([this.#closing.get(id), file.close()]).finally(() => {
      if (this.#closing.get(id) === closed) this.#closing.delete(id);
    });
    this.#closing.set(id, closed);
  }
}

function idOf({ volumeKey, cookieKey }: CookieName): string {
  return `${volumeKey}\0${cookieKey}`;
}
