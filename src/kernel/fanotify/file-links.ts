// SPDX-License-Identifier: Apache-2.0
// The links by which one cache file is mounted, and the note for the daemon that follows.

import { mkdir, rm, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type NotedFile, forgetOpen, noteOpen } from "./left-files.ts";
import { openPath } from "./names.ts";

export interface FileLinksParts {
  readonly cacheDir: string;
  /** Of the cache file. */
  readonly name: string;
  /** Two openings of a file have links of different names. */
  readonly run: string;
  readonly id: number;
}

export class FileLinks {
  readonly #parts: FileLinksParts;
  readonly #target: string;
  /** By path: what there is, or is about to be. */
  readonly #links: Map<string, Promise<void>>;

  /** `left`: of the daemon before us. */
  constructor(parts: FileLinksParts, left: readonly string[] = []) {
    this.#parts = parts;
    this.#target = join("..", "streams", parts.name);
    this.#links = new Map(left.map((path) => [path, Promise.resolve()]));
  }

  path(isWhole: boolean): string {
    const { cacheDir, name: file, run, id } = this.#parts;
    return openPath(cacheDir, { run, id, isWhole, file });
  }

  /** Its path, once it is there. Rejects with the system's error. */
  async add(isWhole: boolean): Promise<string> {
    const path = this.path(isWhole);
    const made = this.#links.get(path) ?? this.#make(path);
    this.#links.set(path, made);
    await made.catch((error: unknown) => {
      this.#links.delete(path);
      throw error;
    });
    return path;
  }

  async #make(path: string): Promise<void> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await symlink(this.#target, path);
  }

  /** To be called before the first link is there. Rejects with the system's error. */
  async note(of: Omit<NotedFile, "name">): Promise<void> {
    const { cacheDir, name } = this.#parts;
    await mkdir(dirname(this.path(false)), { recursive: true, mode: 0o700 });
    await noteOpen(cacheDir, { name, ...of });
  }

  /** Nobody comes by them any more; `restore` puts them back. */
  async remove(): Promise<void> {
    for (const path of this.#links.keys()) await rm(path, { force: true });
  }

  async restore(): Promise<void> {
    for (const path of this.#links.keys()) await symlink(this.#target, path);
  }

  /** The note too. */
  async forget(): Promise<void> {
    await this.remove();
    await forgetOpen(this.#parts.cacheDir, this.#parts.name);
  }
}
