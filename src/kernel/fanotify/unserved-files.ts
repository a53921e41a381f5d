// SPDX-License-Identifier: Apache-2.0
// Files that a daemon before us left mounted, from our start until they are taken up: what cannot
// be now, on a full disk perhaps, is tried again. Until then they count as open, or the keeper
// would let go of the marks that keep readers from their holes.

import { basename } from "node:path";
import { type DaemonError, asDaemonError } from "../../errors.ts";
import { type Clock, within } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import type { Adoption } from "./adoption.ts";
import { type LeftFile, forgetLeft } from "./left-files.ts";
import { idOf } from "./open-entry.ts";
import type { OrphanFiles } from "./orphan-files.ts";
import type { CacheRoom } from "./room.ts";

const AGAIN_MS = 1000;
/** Whoever is left in the list then is looked at again later. */
const ALONE_LIMIT_MS = 1000;

export interface UnservedFilesParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly native: Pick<Native, "close">;
  /** No more tries. */
  readonly stopping: AbortSignal;
  readonly room: CacheRoom;
  readonly orphans: OrphanFiles;
  readonly pathOf: (left: LeftFile) => string;
  /** The fd is to be taken from `orphans`. */
  readonly serve: (left: LeftFile, fd: number) => Promise<void>;
  /** One of them is served, or nobody's any more. */
  readonly onLess: (left: LeftFile) => void;
}

export class UnservedFiles {
  readonly #parts: UnservedFilesParts;
  /** By key: why not, once it was tried. */
  readonly #problems = new Map<string, DaemonError | undefined>();
  /** As fileId gives them. */
  readonly #files = new Set<string>();

  constructor(parts: UnservedFilesParts) {
    this.#parts = parts;
  }

  get count(): number {
    return this.#problems.size;
  }

  has(file: string): boolean {
    return this.#files.has(file);
  }

  problem(id: string): DaemonError | undefined {
    return this.#problems.get(id);
  }

  /** Resolves when each was tried once; never rejects. */
  async adopt(left: readonly LeftFile[], adoption: Adoption): Promise<void> {
    for (const { key, file } of left) {
      this.#problems.set(idOf(key), undefined);
      this.#files.add(file);
    }
    await Promise.all(left.map((file) => this.#try(file, adoption)));
  }

  async #try(left: LeftFile, adoption: Adoption): Promise<void> {
    const { clock, log, stopping, onLess } = this.#parts;
    const id = idOf(left.key);
    try {
      await this.#adopt(left, adoption);
      this.#problems.delete(id);
      this.#files.delete(left.file);
      onLess(left);
    } catch (error) {
      const isFirst = this.#problems.get(id) === undefined;
      this.#problems.set(id, asDaemonError(error));
      if (isFirst) log.error({ err: error, key: left.key.cookieKey }, "a mount cannot be served");
      clock.after(AGAIN_MS, () => {
        if (!stopping.aborted) void this.#try(left, adoption);
      });
    }
  }

  async #adopt(left: LeftFile, adoption: Adoption): Promise<void> {
    const path = this.#parts.pathOf(left);
    const letGo = await this.#parts.room.keep(basename(path));
    try {
      await this.#adoptFile(path, left, adoption);
    } finally {
      letGo();
    }
  }

  async #adoptFile(path: string, left: LeftFile, adoption: Adoption): Promise<void> {
    const { native, clock, orphans, serve } = this.#parts;
    const opened = await adoption.open(path, left.file);
    if (opened === undefined) {
      await forgetLeft(left);
      return;
    }
    orphans.add(opened.fd, left);
    if (!opened.isMounted) {
      await within(clock, ALONE_LIMIT_MS, opened.alone);
      await orphans.look();
      return;
    }
    try {
      await serve(left, opened.fd);
    } catch (error) {
      if (orphans.take(opened.fd)) native.close(opened.fd);
      throw error;
    }
  }
}
