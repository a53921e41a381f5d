// SPDX-License-Identifier: Apache-2.0
// Tokens against the distribution project's own registry, which checks their signature, their
// scope and their time, and a token service with users, identity tokens and public repositories.
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import { createCredentialSource } from "../../src/source/registry/credentials/create-source.ts";
import { takeEnvironment } from "../../src/source/registry/credentials/environment.ts";
import { PushedCredentials } from "../../src/source/registry/credentials/pushed.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import type { FetchOptions, Origin, Source } from "../../src/source/source.ts";
import { sameBytes } from "../support/bytes.ts";
import { type CuttingRelay, startCuttingRelay } from "../support/cutting-relay.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { faultFrom } from "../support/faults.ts";
import { buildImage, digestOf } from "../support/oci-image.ts";
import { freePort } from "../support/port.ts";
import { pushBuiltImage } from "../support/push.ts";
import { QuietLog } from "../support/quiet-log.ts";
import {
  ISSUER,
  LIFETIME_S,
  SERVICE,
  type Signer,
  type TokenServer,
  makeSigner,
  startTokenServer,
} from "../support/token-server.ts";

const CONTENT = Uint8Array.from({ length: 4_000_000 }, (_, at) => (at * 31 + (at >> 9)) & 255);
const image = buildImage([{ bytes: CONTENT, mediaType: "application/vnd.erofs" }]);
const WHOLE = { offset: 0, length: CONTENT.length };
const REPOSITORY = "team/app";

let folder: string;
let signers: readonly Signer[];
let tokens: TokenServer;
let registry: RunningRegistry;
/** In front of the registry, with a host that stays. */
let relay: CuttingRelay;
let programsClock: FakeClock;
let pushed: PushedCredentials;
let log: QuietLog;
let source: Source;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-tokens-"));
  const open = await startDockerRegistry({ storage: join(folder, "storage") });
  for (const repository of [REPOSITORY, "public/app"]) {
    await pushBuiltImage({ host: open.host, repository }, "v1", image);
  }
  await open.stop();
  signers = await Promise.all(["one", "two"].map((name) => makeSigner(folder, name)));
  relay = await startCuttingRelay(() => registry.host);
});

afterAll(async () => {
  await relay.close();
  await rm(folder, { recursive: true, force: true });
});

beforeEach(async () => {
  tokens = await startTokenServer(signer(0));
  tokens.users.set("alice", "one-secret");
  tokens.publicRepositories.add("public/app");
  registry = await startRegistry(0, await freePort());
  programsClock = new FakeClock();
  pushed = new PushedCredentials();
  log = new QuietLog();
  const environment = { DOCKER_CONFIG: folder, PATH: `${folder}:/usr/bin:/bin` };
  const credentials = createCredentialSource({
    clock: programsClock,
    log,
    pushed,
    configured: [],
    dockerConfig: undefined,
    environment: takeEnvironment(environment, folder),
  });
  source = createRegistrySource({ clock: systemClock, random: () => 0, log, credentials });
});

afterEach(async () => {
  await source.close();
  await Promise.all([registry.stop(), tokens.close()]);
  await rm(join(folder, "config.json"), { force: true });
});

function signer(index: number): Signer {
  const found = signers[index];
  if (found === undefined) throw new Error("unreachable");
  return found;
}

/** Trusts the one signer alone. */
function startRegistry(trusted: number, port: number): Promise<RunningRegistry> {
  const rootcertbundle = signer(trusted).certificateFile;
  return startDockerRegistry({
    storage: join(folder, "storage"),
    port,
    tokens: { realm: tokens.realm, service: SERVICE, issuer: ISSUER, rootcertbundle },
  });
}

/** From now on only new tokens open the registry. */
async function changeKeys(): Promise<void> {
  const port = Number(registry.host.split(":")[1]);
  await registry.stop();
  tokens.signer = signer(1);
  registry = await startRegistry(1, port);
}

function originOf(repository: string): Origin {
  return { kind: "registry", host: relay.host, repository };
}

function options(): FetchOptions {
  return { signal: new AbortController().signal, deadlineMs: systemClock.nowMs() + 20_000 };
}

async function read(extent = { offset: 1000, length: 5000 }, repository = REPOSITORY) {
  const blob = { origin: originOf(repository), digest: digestOf(CONTENT), size: CONTENT.length };
  const pieces: Uint8Array[] = [];
  const take = (piece: Uint8Array): void => void pieces.push(Uint8Array.from(piece));
  await source.readRange(blob, extent, take, options());
  const { offset, length } = extent;
  return sameBytes(Buffer.concat(pieces), CONTENT.subarray(offset, offset + length));
}

async function writeDockerConfig(config: object): Promise<void> {
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
}

function pull(user: string, method = "GET") {
  return { method, user, scopes: [`repository:${REPOSITORY}:pull`] };
}

describe("a registry with tokens", () => {
  it("gives a public repository to anyone, and no other", async () => {
    expect(await read(undefined, "public/app")).toBe(true);
    expect(await faultFrom(read())).toEqual({
      code: "registry_unauthorized",
      host: relay.host,
      repository: REPOSITORY,
      status: 401,
    });
    expect(tokens.requests.map(({ user }) => user)).toEqual(["", ""]);
  });

  it("opens to docker's credentials, one token for manifests and blobs", async () => {
    const auth = Buffer.from("alice:one-secret").toString("base64");
    await writeDockerConfig({ auths: { [`http://${relay.host}/v2/`]: { auth } } });
    const manifest = await source.fetchManifest(originOf(REPOSITORY), "v1", options());
    expect(manifest.digest).toBe(image.descriptor.digest);
    expect(await read()).toBe(true);
    expect(tokens.requests).toEqual([pull("alice")]);
  });

  it("opens to an identity token", async () => {
    tokens.identities.set("id-secret", "alice");
    const auth = Buffer.from("alice:").toString("base64");
    await writeDockerConfig({ auths: { [relay.host]: { auth, identitytoken: "id-secret" } } });
    expect(await read()).toBe(true);
    expect(tokens.requests).toEqual([pull("alice", "POST")]);
  });

  it("that refuses all tokens of before gets one new token, and all readers go on", async () => {
    pushed.set(relay.host, "team", { username: "alice", password: "one-secret" });
    expect(await read()).toBe(true);
    await changeKeys();
    const reads = await Promise.all(Array.from({ length: 6 }, () => read()));
    expect(reads).toEqual(Array.from({ length: 6 }, () => true));
    expect(tokens.requests).toEqual([pull("alice"), pull("alice")]);
  });

  it("that changes its keys in the middle of a range gives the rest for a new token", async () => {
    pushed.set(relay.host, undefined, { username: "alice", password: "one-secret" });
    expect(await read()).toBe(true);
    relay.cutAfter(1_500_000, changeKeys);
    expect(await read(WHOLE)).toBe(true);
    expect(relay.cuts).toBe(1);
    expect(tokens.requests).toEqual([pull("alice"), pull("alice")]);
  });

  it("that finds a token expired before its announced time is shown the next one", async () => {
    pushed.set(relay.host, undefined, { username: "alice", password: "one-secret" });
    // The registry takes a token for a minute longer than it is good: this one for some 3 s.
    tokens.backdateS = LIFETIME_S + 60 - 3;
    expect(await read()).toBe(true);
    const authorization = `Bearer ${tokens.lastToken}`;
    const url = `http://${registry.host}/v2/${REPOSITORY}/manifests/v1`;
    while ((await fetch(url, { headers: { authorization } })).status !== 401) {
      // Until the registry itself says so.
    }
    tokens.backdateS = 0;
    expect(await read()).toBe(true);
    expect(tokens.requests).toEqual([pull("alice"), pull("alice")]);
  });

  it("opens to a credential program, which is asked again when the password has changed", async () => {
    const program = join(folder, "docker-credential-test");
    const answer = async (Secret: string): Promise<void> => {
      const json = JSON.stringify({ ServerURL: relay.host, Username: "alice", Secret });
      await writeFile(program, `#!/bin/sh\ncat >/dev/null\necho '${json}'\n`);
      await chmod(program, 0o755);
    };
    await answer("one-secret");
    await writeDockerConfig({ credHelpers: { [relay.host]: "test" } });
    expect(await read()).toBe(true);
    tokens.users.set("alice", "two-secret");
    await Promise.all([answer("two-secret"), changeKeys(), programsClock.advance(10_000)]);
    expect(await read()).toBe(true);
    expect(tokens.requests).toEqual([pull("alice"), pull(""), pull("alice")]);
    const said = JSON.stringify(log.lines);
    expect(said).not.toContain("-secret");
  });
});
