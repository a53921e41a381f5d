// SPDX-License-Identifier: Apache-2.0
// Who knows credentials. Asked when a registry wants some and no token is known: once for a
// token's life, never for each request. Several sources in order of precedence are one source.

import type { Grant } from "./grant.ts";
import { canonicalHost } from "./host-keys.ts";

export interface Wanted {
  /** Canonical; see host-keys.ts. */
  readonly host: string;
  readonly repository: string;
  /** What was refused a moment ago: do not answer it from memory. */
  readonly refused: Grant | undefined;
  /** Aborted when the daemon stops. */
  readonly signal: AbortSignal;
}

export interface CredentialSource {
  /** Goes up when what was given before must not be used any longer. */
  readonly generation: number;
  /** Undefined: none here. Never rejects: what is wrong is warned of, and others are asked. */
  find(wanted: Wanted): Promise<Grant | undefined>;
}

/** The first that knows any, even if they are refused later. Takes hosts as in a URL. */
export class FirstOf implements CredentialSource {
  readonly #sources: readonly CredentialSource[];

  constructor(sources: readonly CredentialSource[]) {
    this.#sources = sources;
  }

  get generation(): number {
    return this.#sources.reduce((sum, { generation }) => sum + generation, 0);
  }

  async find(wanted: Wanted): Promise<Grant | undefined> {
    const asked = { ...wanted, host: canonicalHost(wanted.host) };
    for (const source of this.#sources) {
      const grant = await source.find(asked);
      if (grant !== undefined) return grant;
    }
    return undefined;
  }
}
