// SPDX-License-Identifier: Apache-2.0
// Passwords against the distribution project's own registry with a file of users.
import { mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import { AccessBook } from "../../src/source/registry/access.ts";
import { createCredentialSource } from "../../src/source/registry/credentials/create-source.ts";
import { takeEnvironment } from "../../src/source/registry/credentials/environment.ts";
import { PushedCredentials } from "../../src/source/registry/credentials/pushed.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import type { FetchOptions, Origin, Source } from "../../src/source/source.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { faultFrom } from "../support/faults.ts";
import { buildImage, digestOf } from "../support/oci-image.ts";
import { pushBuiltImage } from "../support/push.ts";

// The registry takes bcrypt alone. Made with: perl -e 'print crypt("one-secret",
// q($2y$05$erofsdtestserofsdtestu))', and the same for two-secret.
const USERS = {
  "one-secret": "alice:$2y$05$erofsdtestserofsdtestueTHtcALswDN7MvrDleaMjCBmA1aTqfW\n",
  "two-secret": "alice:$2y$05$erofsdtestserofsdtestukTg1lj4VEI3i9wke2akztJG/KNuZjEe\n",
} as const;

const LAYER = { bytes: new Uint8Array(10_000).fill(7), mediaType: "application/vnd.erofs" };
const image = buildImage([LAYER]);

let folder: string;
let registry: RunningRegistry;
let source: Source;
let origin: Origin;
const access = new AccessBook();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-users-"));
  const storage = join(folder, "storage");
  const open = await startDockerRegistry({ storage });
  await pushBuiltImage({ host: open.host, repository: "team/app" }, "v1", image);
  await open.stop();
  await writeFile(usersFile(), USERS["one-secret"]);
  registry = await startDockerRegistry({ storage, htpasswd: usersFile() });
  const credentials = createCredentialSource({
    clock: systemClock,
    log: undefined,
    pushed: new PushedCredentials(),
    configured: [],
    dockerConfig: join(folder, "config.json"),
    environment: takeEnvironment({}, folder),
  });
  source = createRegistrySource({ clock: systemClock, random: () => 0, access, credentials });
  origin = { kind: "registry", host: registry.host, repository: "team/app" };
});

afterAll(async () => {
  await source.close();
  await registry.stop();
  await rm(folder, { recursive: true, force: true });
});

function usersFile(): string {
  return join(folder, "users");
}

function login(password: string): void {
  access.set(registry.host, "team/app", { credentials: { username: "alice", password } });
}

function options(): FetchOptions {
  return { signal: new AbortController().signal, deadlineMs: systemClock.nowMs() + 20_000 };
}

async function readBytes(): Promise<number> {
  let bytes = 0;
  const blob = { origin, digest: digestOf(LAYER.bytes), size: LAYER.bytes.length };
  const count = (piece: Uint8Array): void => {
    bytes += piece.length;
  };
  await source.readRange(blob, { offset: 0, length: blob.size }, count, options());
  return bytes;
}

it("without a password, and with a wrong one, names the registry and no secret", async () => {
  const wanted = {
    code: "registry_unauthorized",
    host: registry.host,
    repository: "team/app",
    status: 401,
  };
  expect(await faultFrom(readBytes())).toEqual(wanted);
  login("wrong-secret");
  expect(await faultFrom(readBytes())).toEqual(wanted);
  expect(await faultFrom(source.fetchManifest(origin, "v1", options()))).toEqual(wanted);
});

it("with the password reads manifests and blobs, and with a renewed one goes on", async () => {
  login("one-secret");
  const manifest = await source.fetchManifest(origin, "v1", options());
  expect(manifest.digest).toBe(image.descriptor.digest);
  expect(await readBytes()).toBe(LAYER.bytes.length);
  await writeFile(usersFile(), USERS["two-secret"]);
  // The registry looks at the file's time, in whole seconds on some filesystems.
  await utimes(usersFile(), new Date(), new Date(Date.now() + 5_000));
  expect((await faultFrom(readBytes())).code).toBe("registry_unauthorized");
  login("two-secret");
  expect(await readBytes()).toBe(LAYER.bytes.length);
});

it("with docker's config.json follows a changed password, too", async () => {
  access.delete(registry.host, "team/app");
  await dockerLogin("two-secret");
  expect(await readBytes()).toBe(LAYER.bytes.length);
  await writeFile(usersFile(), USERS["one-secret"]);
  await utimes(usersFile(), new Date(), new Date(Date.now() + 10_000));
  expect((await faultFrom(readBytes())).code).toBe("registry_unauthorized");
  await dockerLogin("one-secret");
  expect(await readBytes()).toBe(LAYER.bytes.length);
});

async function dockerLogin(password: string): Promise<void> {
  const auth = Buffer.from(`alice:${password}`).toString("base64");
  const config = JSON.stringify({ auths: { [registry.host]: { auth } } });
  await writeFile(join(folder, "config.json"), config);
}
