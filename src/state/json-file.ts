// SPDX-License-Identifier: Apache-2.0
// One JSON document on disk that survives a crash at any moment: written to a temporary
// file, synced, renamed over the old one, and the directory synced. Reads happen once, at
// start; writes are queued, and saves asked for while one runs share the next.

import { mkdir, open, readFile, rename } from "node:fs/promises";
import { dirname } from "node:path";

export class JsonFile {
  readonly path: string;
  readonly #snapshot: () => unknown;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  /** `snapshot` gives the document to write, at the moment of writing. */
  constructor(path: string, snapshot: () => unknown) {
    this.path = path;
    this.#snapshot = snapshot;
  }

  /** The document's text, undefined when there is none. Rejects with the system's error otherwise. */
  async read(): Promise<string | undefined> {
    try {
      return await readFile(this.path, "utf8");
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Sets a damaged document aside, for somebody to look at. */
  async setAside(): Promise<string> {
    const aside = `${this.path}.damaged`;
    await rename(this.path, aside);
    return aside;
  }

  /** Resolves when a snapshot taken after this call is on disk. */
  save(): Promise<void> {
    if (this.#running === undefined) {
      this.#running = this.#write().finally(() => {
        this.#running = undefined;
      });
      return this.#running;
    }
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return this.save();
      });
    return this.#next;
  }

  async #write(): Promise<void> {
    const directory = dirname(this.path);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const temporary = `${this.path}.new`;
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(`${JSON.stringify(this.#snapshot())}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.path);
    const parent = await open(directory, "r");
    try {
      await parent.sync();
    } finally {
      await parent.close();
    }
  }
}
