// SPDX-License-Identifier: Apache-2.0
// Credentials from the daemon's configuration. Those in files are read when they are wanted and
// the file has changed, so that whoever rotates them needs no restart.

import { invariant } from "../../../errors.ts";
import type { Clock } from "../../../platform/clock.ts";
import type { Secret } from "../../../platform/secret.ts";
import type { RegistryLog } from "../options.ts";
import type { CredentialSource, Wanted } from "./credential-source.ts";
import { type Credentials, Grant, credentialsProblem } from "./grant.ts";
import { type HostKey, bestMatch, keyOf } from "./host-keys.ts";
import { WatchedFile } from "./watched-file.ts";

/** One of password, passwordFile (both with a user), token and tokenFile. */
export interface ConfiguredCredential {
  readonly host: string;
  readonly repository?: string | undefined;
  readonly username?: string | undefined;
  readonly password?: Secret | undefined;
  readonly passwordFile?: string | undefined;
  readonly token?: Secret | undefined;
  readonly tokenFile?: string | undefined;
}

interface Entry extends HostKey {
  readonly grant: () => Promise<Grant | undefined>;
}

export class ConfiguredCredentials implements CredentialSource {
  readonly generation = 0;
  readonly #entries: readonly Entry[];

  constructor(
    credentials: readonly ConfiguredCredential[],
    parts: { readonly clock: Clock; readonly log: RegistryLog | undefined },
  ) {
    this.#entries = credentials.map((given) => {
      const key = keyOf(given);
      invariant(typeof key !== "string", "the configuration's hosts have been checked");
      return { ...key, grant: grantOf(given, parts) };
    });
  }

  async find(wanted: Wanted): Promise<Grant | undefined> {
    return await bestMatch(this.#entries, wanted)?.grant();
  }
}

function grantOf(
  { username, password, passwordFile, token, tokenFile }: ConfiguredCredential,
  parts: { readonly clock: Clock; readonly log: RegistryLog | undefined },
): Entry["grant"] {
  const credentialsOf = (secret: string): Credentials =>
    username === undefined ? { bearer: secret } : { username, password: secret };
  const path = passwordFile ?? tokenFile;
  if (path === undefined) {
    const grant = new Grant(credentialsOf((password ?? token)?.reveal() ?? ""));
    return () => Promise.resolve(grant);
  }
  const parse = (text: string) => {
    const credentials = credentialsOf(text.replace(/\r?\n$/, ""));
    const problem = text === "" ? "it is empty" : credentialsProblem(credentials);
    return problem === undefined
      ? { value: new Grant(credentials), problems: [] }
      : { value: undefined, problems: [problem] };
  };
  const file = new WatchedFile<Grant>({ path, optional: false, parse, ...parts });
  return () => file.read();
}
