// SPDX-License-Identifier: Apache-2.0
// The links by which one cache file is mounted, and the note for the daemon that follows.

import { mkdir, rm, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type NotedFile, forgetOpen, noteOpen } from "./left-files.ts";
import { openPath, parseOpenPath } from "./names.ts";

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
  /** By path: what there is, or is about to be; undefined where it was removed. */
  readonly #links: Map<string, Promise<void> | undefined>;
  readonly #left: string | undefined;

  /** `left`: of the daemon before us, which are used on: a full disk takes no others. */
  constructor(parts: FileLinksParts, left: readonly string[] = []) {
    this.#parts = parts;
    this.#target = join("..", "streams", parts.name);
    this.#links = new Map(left.map((path) => [path, Promise.resolve()]));
    this.#left = left.find((path) => parseOpenPath(path)?.isWhole === false);
  }

  path(isWhole: boolean): string {
    const { cacheDir, name: file, run, id } = this.#parts;
    if (!isWhole && this.#left !== undefined) return this.#left;
    return openPath(cacheDir, { run, id, isWhole, file });
  }

  /** Its path, once it is there. Rejects with the system's error. */
  async add(isWhole: boolean): Promise<string> {
    const path = this.path(isWhole);
    await this.#add(path);
    return path;
  }

  async #add(path: string): Promise<void> {
    const made = this.#links.get(path) ?? this.#make(path);
    this.#links.set(path, made);
    await made.catch((error: unknown) => {
      this.#links.set(path, undefined);
      throw error;
    });
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
    for (const path of this.#links.keys()) {
      await rm(path, { force: true });
      this.#links.set(path, undefined);
    }
  }

  async restore(): Promise<void> {
    for (const path of this.#links.keys()) await this.#add(path);
  }

  /** The note too. */
  async forget(): Promise<void> {
    await this.remove();
    await forgetOpen(this.#parts.cacheDir, this.#parts.name);
  }
}
