// SPDX-License-Identifier: Apache-2.0
// The bound images on disk, for when a supervisor's state is missing one (a crash between bind
// and its saving), or there is no supervisor. Holds secrets: mode 0600, in a directory of 0700.
//
// `serial` counts the changes ever made in this cache, and goes into the supervisor's state too:
// the higher one knows more. `adopted` names a foreign state (nydusd's has no such number) that
// this journal already begins with.

import { join } from "node:path";
import { JsonFile, parseDocument } from "../state/json-file.ts";
import { isJson } from "./bind-fields.ts";

const VERSION = 1;

export interface Recorded {
  readonly serial: number;
  readonly adopted: string | undefined;
  readonly images: readonly unknown[];
}

/** In a directory of its own: the snapshotter takes plain files beside it for blobs. */
export function journalPath(fscacheDir: string): string {
  return join(fscacheDir, "state", "nydusd-images.json");
}

export class Journal {
  readonly #file: JsonFile;
  #document: Recorded = { serial: 0, adopted: undefined, images: [] };

  constructor(path: string) {
    this.#file = new JsonFile(path, () => ({ version: VERSION, ...this.#document }));
  }

  get path(): string {
    return this.#file.path;
  }

  get serial(): number {
    return this.#document.serial;
  }

  /** Undefined when there is none, and when it is damaged: then it was set aside, and `onDamage` told. */
  async load(onDamage: (aside: string) => void): Promise<Recorded | undefined> {
    const text = await this.#file.read();
    if (text === undefined) return undefined;
    const recorded = parse(text);
    if (recorded === undefined) {
      onDamage(await this.#file.setAside());
      return undefined;
    }
    this.#document = recorded;
    return recorded;
  }

  /** From now on: what comes after this state. */
  follow(state: { serial: number; adopted: string | undefined }): void {
    const serial = Math.max(this.#document.serial, state.serial);
    this.#document = { ...this.#document, serial, adopted: state.adopted };
  }

  /** Resolves when these images are on disk. */
  save(images: readonly unknown[]): Promise<void> {
    this.#document = { ...this.#document, serial: this.#document.serial + 1, images };
    return this.#file.save();
  }
}

function parse(text: string): Recorded | undefined {
  let value: unknown;
  try {
    value = parseDocument(text);
  } catch {
    return undefined;
  }
  if (!isJson(value) || value["version"] !== VERSION) return undefined;
  const { serial, adopted, images } = value;
  const isAdopted = adopted === undefined || typeof adopted === "string";
  if (typeof serial !== "number" || !Array.isArray(images) || !isAdopted) return undefined;
  return { serial, adopted, images };
}
