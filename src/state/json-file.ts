// SPDX-License-Identifier: Apache-2.0
// One JSON document on disk that survives a crash at any moment. Reads happen once, at start;
// writes are queued, and saves asked for while one runs share the next. The first field is a
// checksum of all others: a bit that turned on the disk must not make one name another.

import { createHash } from "node:crypto";
import { readFile, rename } from "node:fs/promises";
import { replaceFile } from "../platform/durable-file.ts";

export class JsonFile {
  readonly path: string;
  readonly #snapshot: () => unknown;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  /** `snapshot` gives the document to write, at the moment of writing: an object with fields. */
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

  #write(): Promise<void> {
    const text = JSON.stringify(this.#snapshot());
    return replaceFile(this.path, (file) =>
      file.writeFile(`{"checksum":"${checksumOf(text)}",${text.slice(1)}\n`),
    );
  }
}

const CHECKSUM = /^\{"checksum":"([0-9a-f]{64})",/;

/** The document in a file's text, without its checksum. Throws when it is not as it was written. */
export function parseDocument(text: string): unknown {
  const [head, checksum] = CHECKSUM.exec(text) ?? [];
  if (head === undefined) return JSON.parse(text);
  const rest = `{${text.slice(head.length).trimEnd()}`;
  if (checksumOf(rest) !== checksum) throw new Error("its checksum is wrong");
  return JSON.parse(rest);
}

function checksumOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
