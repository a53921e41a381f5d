// SPDX-License-Identifier: Apache-2.0
// A small file that is read when somebody asks for it and it has changed (time, size or inode).
// Never blocks: a file that cannot be read in time counts as broken. A broken one is warned of
// once, and again when it is broken in another way.

import { readFile, stat } from "node:fs/promises";
import type { Clock } from "../../../platform/clock.ts";
import type { RegistryLog } from "../options.ts";

const FILE_BYTES_MAX = 1024 * 1024;
const READ_TIMEOUT_MS = 5_000;

export interface WatchedFileParts<T> {
  readonly path: string;
  readonly clock: Clock;
  readonly log: RegistryLog | undefined;
  /** A missing file is as good as an empty one. */
  readonly optional: boolean;
  readonly parse: (text: string) => { readonly value: T | undefined; problems: readonly string[] };
}

export class WatchedFile<T> {
  readonly #parts: WatchedFileParts<T>;
  #reading: Promise<T | undefined> | undefined;
  /** How the file looked when it was read. */
  #version = "";
  #value: T | undefined;
  #warned = "";

  constructor(parts: WatchedFileParts<T>) {
    this.#parts = parts;
  }

  /** What the file says now; undefined while it is missing or broken. Never rejects. */
  async read(): Promise<T | undefined> {
    // A read that hangs is joined: it holds one thread, however many ask.
    this.#reading ??= this.#load().finally(() => {
      this.#reading = undefined;
    });
    const { clock } = this.#parts;
    const reading = this.#reading;
    let cancel = (): void => undefined;
    const late = new Promise<undefined>((resolve) => {
      cancel = clock.after(READ_TIMEOUT_MS, () => {
        this.#warn([`not read within ${READ_TIMEOUT_MS} ms`]);
        resolve(undefined);
      });
    });
    try {
      return await Promise.race([reading, late]);
    } finally {
      cancel();
    }
  }

  async #load(): Promise<T | undefined> {
    const { path, optional, parse } = this.#parts;
    try {
      const found = await stat(path, { bigint: true });
      const version = [found.mtimeNs, found.ctimeNs, found.size, found.ino].join(" ");
      if (version === this.#version) return this.#value;
      this.#forget();
      if (!found.isFile()) this.#warn(["it is not a file"]);
      else if (found.size > FILE_BYTES_MAX) this.#warn([`longer than ${FILE_BYTES_MAX} bytes`]);
      else {
        const { value, problems } = parse(await readFile(path, "utf8"));
        this.#warn(problems);
        this.#value = value;
        this.#version = version;
      }
    } catch (error) {
      this.#forget();
      const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
      const isMissing = code === "ENOENT" || code === "ENOTDIR";
      if (!isMissing || !optional) this.#warn([isMissing ? "no such file" : `not read (${code})`]);
    }
    return this.#value;
  }

  #forget(): void {
    this.#value = undefined;
    this.#version = "";
  }

  #warn(problems: readonly string[]): void {
    const text = problems.slice(0, 10).join("; ");
    if (text !== "" && text !== this.#warned) {
      this.#parts.log?.warn(
        { file: this.#parts.path },
        `credentials: ${this.#parts.path}: ${text}`,
      );
    }
    this.#warned = text;
  }
}
