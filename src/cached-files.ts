// SPDX-License-Identifier: Apache-2.0
// What is kept in the cache, a file each, at whichever door is open, and how one is given up. What
// is open, here or in the kernel, stays: at cachefiles the kernel itself says so.

import { stat } from "node:fs/promises";
import { join } from "node:path";
import { cullFile } from "./cache/cull.ts";
import { encodedObjectFile } from "./cache/disk-names.ts";
import type { CachedFile, CachedFiles } from "./cache/prune.ts";
import type { OpenDoor } from "./doors.ts";
import type { Engine } from "./flow/engine.ts";
import { cacheFileStart } from "./kernel/fanotify/names.ts";
import type { FanotifySession } from "./kernel/fanotify/session.ts";
import { listOrNone } from "./platform/list-directory.ts";
import type { CookieName } from "./state/bindings.ts";

const STAT_BLOCK_BYTES = 512;

export function cachedFilesOf(
  opened: OpenDoor,
  of: { readonly cacheDir: string; readonly engine: Pick<Engine, "openObjects"> },
): CachedFiles {
  if (opened.kind !== "cachefiles") return filesOfDoor(opened.door);
  return new KernelFiles({ ...of, command: opened.command });
}

function filesOfDoor({ room }: Pick<FanotifySession, "room">): CachedFiles {
  return {
    async list() {
      return (await room.list()).map((file) => {
        const { name, bytes, usedMs } = file;
        return { id: name, bytes, usedMs, drop: () => room.drop(file) };
      });
    },
    isOf: ({ id }, name) => id.startsWith(cacheFileStart(name)),
  };
}

class KernelFiles implements CachedFiles {
  readonly #of: {
    readonly cacheDir: string;
    readonly engine: Pick<Engine, "openObjects">;
    readonly command: (text: string) => void;
  };

  constructor(of: {
    readonly cacheDir: string;
    readonly engine: Pick<Engine, "openObjects">;
    readonly command: (text: string) => void;
  }) {
    this.#of = of;
  }

  async list(): Promise<CachedFile[]> {
    const root = join(this.#of.cacheDir, "cache");
    const found: CachedFile[] = [];
    for (const volume of await listOrNone(root)) {
      for (const fan of await listOrNone(join(root, volume))) {
        const directory = join(root, volume, fan);
        for (const name of await listOrNone(directory)) {
          const id = join(directory, name);
          const file = await stat(id).catch(() => undefined);
          if (file?.isFile() !== true) continue;
          // The kernel sets the time of access when it opens one.
          const usedMs = Math.max(file.atimeMs, file.mtimeMs);
          const bytes = file.blocks * STAT_BLOCK_BYTES;
          found.push({ id, bytes, usedMs, drop: () => this.#drop(directory, name) });
        }
      }
    }
    return found;
  }

  isOf({ id }: Pick<CachedFile, "id">, name: CookieName): boolean {
    const at = encodedObjectFile(this.#of.cacheDir, name);
    return at !== undefined && join(at.directory, at.name) === id;
  }

  /** One that we fill by its name is none that the kernel knows of. */
  #drop(directory: string, name: string): Promise<boolean> {
    const { engine, command } = this.#of;
    const id = join(directory, name);
    const isOurs = engine.openObjects.some((object) => this.isOf({ id }, object));
    return Promise.resolve(!isOurs && cullFile({ command }, { directory, name }) !== "in use");
  }
}
