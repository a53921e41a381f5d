// SPDX-License-Identifier: Apache-2.0
// All credentials of a daemon as one source, in order of precedence: given at run time, the
// configuration, the environment (a text, then a file), docker's config.json.

import { join } from "node:path";
import type { Clock } from "../../../platform/clock.ts";
import type { Secret } from "../../../platform/secret.ts";
import type { RegistryLog } from "../options.ts";
import { type ConfiguredCredential, ConfiguredCredentials } from "./configured.ts";
import { type CredentialSource, FirstOf } from "./credential-source.ts";
import { CredentialPrograms } from "./credential-programs.ts";
import { type DockerConfig, parseDockerConfig } from "./docker-config.ts";
import { DockerCredentials } from "./docker-credentials.ts";
import type { CredentialEnvironment } from "./environment.ts";
import type { PushedCredentials } from "./pushed.ts";
import { WatchedFile } from "./watched-file.ts";

export interface CredentialParts {
  readonly clock: Clock;
  readonly log: RegistryLog | undefined;
  readonly pushed: PushedCredentials;
  readonly configured: readonly ConfiguredCredential[];
  /** A config.json; undefined: where docker has it; empty: none. */
  readonly dockerConfig: string | undefined;
  readonly environment: CredentialEnvironment;
}

export function createCredentialSource(parts: CredentialParts): CredentialSource {
  const { clock, log, pushed, configured, environment } = parts;
  const programs = new CredentialPrograms({ clock, log, environment: environment.ofPrograms });
  const sources: CredentialSource[] = [
    pushed,
    new ConfiguredCredentials(configured, { clock, log }),
  ];
  const add = (read: () => Promise<DockerConfig | undefined>): void => {
    sources.push(new DockerCredentials({ read, programs }));
  };
  const addFile = (path: string, optional: boolean): void => {
    const parse = (text: string) => {
      const { config: value, problems } = parseDockerConfig(text);
      return { value, problems };
    };
    const file = new WatchedFile<DockerConfig>({ path, clock, log, optional, parse });
    add(() => file.read());
  };
  const { registryAuth, registryAuthFile, dockerConfigDir, home } = environment;
  if (registryAuth !== undefined) add(fromText(registryAuth, log));
  if (registryAuthFile !== undefined) addFile(registryAuthFile, false);
  if (parts.dockerConfig === undefined) {
    addFile(join(dockerConfigDir ?? join(home, ".docker"), "config.json"), true);
  } else if (parts.dockerConfig !== "") {
    addFile(parts.dockerConfig, false);
  }
  return new FirstOf(sources);
}

/** Parsed when it is first wanted. */
function fromText(text: Secret, log: RegistryLog | undefined) {
  let parsed: DockerConfig | undefined | "not yet" = "not yet";
  return (): Promise<DockerConfig | undefined> => {
    if (parsed === "not yet") {
      const { config, problems } = parseDockerConfig(text.reveal());
      const variable = "EROFSD_REGISTRY_AUTH";
      if (problems.length > 0) {
        log?.warn({ variable }, `credentials: ${variable}: ${problems.slice(0, 10).join("; ")}`);
      }
      parsed = config;
    }
    return Promise.resolve(parsed);
  };
}
