// SPDX-License-Identifier: Apache-2.0
// What the process's environment says of credentials. A secret in it is taken out, so that no
// program we start inherits it.

import { Secret } from "../../../platform/secret.ts";

export interface CredentialEnvironment {
  /** EROFSD_REGISTRY_AUTH: a config.json as docker has it. */
  readonly registryAuth: Secret | undefined;
  /** EROFSD_REGISTRY_AUTH_FILE: the path of one. */
  readonly registryAuthFile: string | undefined;
  /** DOCKER_CONFIG: the directory of docker's config.json. */
  readonly dockerConfigDir: string | undefined;
  readonly home: string;
  /** What credential programs are started with; it may hold other people's secrets. */
  readonly ofPrograms: Readonly<Record<string, string | undefined>>;
}

const TEXT = "EROFSD_REGISTRY_AUTH";
const FILE = "EROFSD_REGISTRY_AUTH_FILE";

/** Changes `environment`. */
export function takeEnvironment(
  environment: Record<string, string | undefined>,
  home: string,
): CredentialEnvironment {
  const text = nonEmpty(environment[TEXT]);
  delete environment[TEXT];
  return hidden({
    registryAuth: text === undefined ? undefined : new Secret(text),
    registryAuthFile: nonEmpty(environment[FILE]),
    dockerConfigDir: nonEmpty(environment["DOCKER_CONFIG"]),
    home,
    ofPrograms: { ...environment },
  });
}

/** Printing it does not print the programs' environment. */
function hidden(taken: CredentialEnvironment): CredentialEnvironment {
  return Object.defineProperty({ ...taken }, "ofPrograms", { enumerable: false });
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text === "" ? undefined : text;
}
