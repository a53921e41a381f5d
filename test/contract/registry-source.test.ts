// SPDX-License-Identifier: Apache-2.0
// Against the distribution project's own registry.
import { systemClock } from "../../src/platform/clock.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import { startDockerRegistry } from "../support/docker-registry.ts";
import { pushBuiltImage } from "../support/push.ts";
import { runSourceContract } from "./source.ts";

runSourceContract("a registry", async (image) => {
  const registry = await startDockerRegistry();
  await pushBuiltImage({ host: registry.host, repository: "team/app" }, "v1", image);
  const originOf = (repository: string) => ({
    kind: "registry" as const,
    host: registry.host,
    repository,
  });
  return {
    source: createRegistrySource({ clock: systemClock, random: () => 0 }),
    origin: originOf("team/app"),
    emptyOrigin: originOf("team/nothing"),
    dispose: () => registry.stop(),
  };
});
