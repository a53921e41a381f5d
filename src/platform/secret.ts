// SPDX-License-Identifier: Apache-2.0
// A text that must not be shown: however it is printed, it says only that it is a secret.

import { inspect } from "node:util";

export class Secret {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  /** For whoever sends it where it belongs. */
  reveal(): string {
    return this.#text;
  }

  toJSON(): string {
    return "[secret]";
  }

  toString(): string {
    return "[secret]";
  }

  [inspect.custom](): string {
    return "[secret]";
  }
}
