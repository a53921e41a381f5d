// SPDX-License-Identifier: Apache-2.0
// The daemon's rooms as they are wired: credentials from a configuration and over the control
// socket open the distribution project's own registry, and nothing that is logged or answered has
// them.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { parseConfig } from "../../src/config/config.ts";
import { ask } from "../../src/control/client.ts";
import { credentialOperations } from "../../src/control/operations.ts";
import { droppedAnswer, pushedAnswer } from "../../src/control/schema.ts";
import { ControlServer } from "../../src/control/server.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { loadNative } from "../../src/platform/native.ts";
import { buildRooms } from "../../src/rooms.ts";
import { onlyOperations } from "../support/control-operations.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { faultFrom } from "../support/faults.ts";
import { buildImage } from "../support/oci-image.ts";
import { pushBuiltImage } from "../support/push.ts";
import { QuietLog } from "../support/quiet-log.ts";
import { ownPeers } from "../support/own-peers.ts";

const SECRET = "one-secret";
// bcrypt of it; see registry-access.test.ts.
const USERS = "alice:$2y$05$erofsdtestserofsdtestueTHtcALswDN7MvrDleaMjCBmA1aTqfW\n";
const image = buildImage([{ bytes: Uint8Array.of(1), mediaType: "application/vnd.erofs" }]);

let folder: string;
let registry: RunningRegistry;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-rooms-"));
  const storage = join(folder, "storage");
  const open = await startDockerRegistry({ storage });
  await pushBuiltImage({ host: open.host, repository: "team/app" }, "v1", image);
  await open.stop();
  await writeFile(join(folder, "users"), USERS);
  registry = await startDockerRegistry({ storage, htpasswd: join(folder, "users") });
});

afterAll(async () => {
  await registry.stop();
  await rm(folder, { recursive: true, force: true });
});

async function rooms(registryLines: readonly string[]) {
  const log = new QuietLog();
  const text = [
    "[cache]",
    `dir = ${JSON.stringify(join(folder, "cache"))}`,
    "[registry]",
    'docker_config = ""',
    ...registryLines,
  ];
  const config = parseConfig(text.join("\n"), "test.toml");
  const native = loadNative({ writerThreads: 1 });
  const built = await buildRooms({ config, native, log, onFillFailure: () => undefined });
  onTestFinished(() => built.source.close());
  const origin = { kind: "registry", host: registry.host, repository: "team/app" } as const;
  const pull = async (): Promise<string> => {
    const deadlineMs = systemClock.nowMs() + 20_000;
    const { signal } = new AbortController();
    const manifest = await built.source.fetchManifest(origin, "v1", { signal, deadlineMs });
    return manifest.digest;
  };
  return { ...built, config, log, pull };
}

it("a configured password opens the registry", async () => {
  const built = await rooms([
    "[[registry.credentials]]",
    `host = ${JSON.stringify(registry.host)}`,
    'username = "alice"',
    `password = "${SECRET}"`,
  ]);
  expect(await built.pull()).toBe(image.descriptor.digest);
  expect(inspect([built.config, built.log.lines, built.source], { depth: 12 })).not.toContain(
    SECRET,
  );
});

it("a password given over the control socket opens it from then on, until it is taken back", async () => {
  const built = await rooms([]);
  const socketPath = join(folder, "control.sock");
  const operations = onlyOperations(credentialOperations(built.pushed));
  const server = new ControlServer({ peers: ownPeers(), socketPath, operations, log: built.log });
  await server.listen();
  onTestFinished(() => server.close());
  expect((await faultFrom(built.pull())).code).toBe("registry_unauthorized");
  const body = { host: registry.host, repository: "team", username: "alice", password: SECRET };
  const path = "/v1/credentials";
  await ask(socketPath, { method: "POST", path, body, answer: pushedAnswer });
  expect(await built.pull()).toBe(image.descriptor.digest);
  const query = new URLSearchParams({ host: registry.host, repository: "team" });
  const dropped = await ask(socketPath, {
    method: "DELETE",
    path: `${path}?${query.toString()}`,
    answer: droppedAnswer,
  });
  expect(dropped).toEqual({ deleted: true });
  expect((await faultFrom(built.pull())).code).toBe("registry_unauthorized");
  const said = inspect([built.log.lines, built.pushed, built.source], { depth: 12 });
  expect(said).not.toContain(SECRET);
});
