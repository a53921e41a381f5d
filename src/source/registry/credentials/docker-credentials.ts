// SPDX-License-Identifier: Apache-2.0
// Credentials as docker finds them in a config.json, wherever its text comes from: the program
// for the host, else the program for all hosts, else what the file itself has.

import type { CredentialSource, Wanted } from "./credential-source.ts";
import type { CredentialPrograms } from "./credential-programs.ts";
import type { DockerConfig } from "./docker-config.ts";
import type { Grant } from "./grant.ts";
import { bestMatch } from "./host-keys.ts";

export class DockerCredentials implements CredentialSource {
  readonly generation = 0;
  readonly #read: () => Promise<DockerConfig | undefined>;
  readonly #programs: CredentialPrograms;

  constructor(parts: {
    /** The config as it is now. Never rejects. */
    readonly read: () => Promise<DockerConfig | undefined>;
    readonly programs: CredentialPrograms;
  }) {
    this.#read = parts.read;
    this.#programs = parts.programs;
  }

  async find(wanted: Wanted): Promise<Grant | undefined> {
    const config = await this.#read();
    if (config === undefined) return undefined;
    const program = config.programs.get(wanted.host) ?? config.store;
    const grant = program === undefined ? undefined : await this.#programs.get(program, wanted);
    return grant ?? bestMatch(config.entries, wanted)?.grant;
  }
}
