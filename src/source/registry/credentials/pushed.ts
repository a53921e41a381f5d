// SPDX-License-Identifier: Apache-2.0
// Credentials that somebody gave at run time (control socket, `erofsd login`). In memory alone,
// never read back, gone with the daemon.

import { inspect } from "node:util";
import { DaemonError } from "../../../errors.ts";
import type { CredentialSource, Wanted } from "./credential-source.ts";
import { type Credentials, Grant, credentialsProblem } from "./grant.ts";
import { type HostKey, bestMatch, keyOf } from "./host-keys.ts";

const ENTRIES_MAX = 1024;

/** Bounded: one too many is refused, for forgetting another would stop its readers. */
export class PushedCredentials implements CredentialSource {
  readonly #entriesMax: number;
  readonly #entries = new Map<string, HostKey & { readonly grant: Grant }>();
  #generation = 0;

  constructor({ entriesMax = ENTRIES_MAX }: { readonly entriesMax?: number } = {}) {
    this.#entriesMax = entriesMax;
  }

  get generation(): number {
    return this.#generation;
  }

  /**
   * For a host, or with `repository` for this one and those below it; replaces what was given
   * for the same. Fault: request_invalid, which names the field and not its value.
   */
  set(host: string, repository: string | undefined, credentials: Credentials): void {
    const key = keyFor(host, repository);
    const problem = credentialsProblem(credentials);
    if (problem !== undefined) throw refused("credentials", problem);
    const name = `${key.host}/${key.path}`;
    const before = this.#entries.get(name);
    if (before === undefined && this.#entries.size >= this.#entriesMax) {
      throw refused("host", `there are credentials for ${this.#entriesMax} already`);
    }
    const grant = new Grant(credentials);
    if (before?.grant.isSame(grant) === true) return;
    this.#entries.set(name, { ...key, grant });
    this.#generation += 1;
  }

  /** False when there were none. Tokens that they bought are not used any longer. */
  delete(host: string, repository: string | undefined): boolean {
    const { host: name, path } = keyFor(host, repository);
    const isDeleted = this.#entries.delete(`${name}/${path}`);
    if (isDeleted) this.#generation += 1;
    return isDeleted;
  }

  find(wanted: Wanted): Promise<Grant | undefined> {
    return Promise.resolve(bestMatch(this.#entries.values(), wanted)?.grant);
  }

  toJSON(): object {
    return { hosts: [...this.#entries.keys()] };
  }

  [inspect.custom](): string {
    return `PushedCredentials ${JSON.stringify(this)}`;
  }
}

function keyFor(host: string, repository: string | undefined): HostKey {
  const key = keyOf({ host, repository });
  if (typeof key === "string") throw refused(key, `it names no ${key}`);
  return key;
}

function refused(field: string, detail: string): DaemonError {
  return new DaemonError({ code: "request_invalid", field, detail });
}
