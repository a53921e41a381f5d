// SPDX-License-Identifier: Apache-2.0
// Mirrors by hosts.toml, against the distribution project's own registry: as itself, as a
// pull-through mirror, dead, lying, slow, behind TLS of a private authority.
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import { HostsBook } from "../../src/source/registry/hosts-book.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import type { FetchOptions, Source } from "../../src/source/source.ts";
import { sameBytes } from "../support/bytes.ts";
import { certifyWithClient } from "../support/certify.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { type RunningNginx, startNginx } from "../support/nginx.ts";
import { faultFrom } from "../support/faults.ts";
import { buildImage, digestOf } from "../support/oci-image.ts";
import { freePort } from "../support/port.ts";
import { pushBlob, pushBuiltImage } from "../support/push.ts";
import { rightAnswer, startScriptedServer } from "../support/scripted-server.ts";

const CONTENT = Uint8Array.from({ length: 300_000 }, (_, at) => (at * 31 + (at >> 8)) & 255);
const REPOSITORY = "team/app";
const image = buildImage([{ bytes: CONTENT, mediaType: "application/vnd.erofs" }]);

let registry: RunningRegistry;
let folder: string;
let source: Source;
let warnings: string[];
/** Every request's host. */
let asked: string[];

beforeAll(async () => {
  registry = await startDockerRegistry();
  await pushBuiltImage({ host: registry.host, repository: REPOSITORY }, "v1", image);
});

afterAll(() => registry.stop());

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-certs-"));
  warnings = [];
  asked = [];
  const log = {
    debug: () => undefined,
    warn: (_: object, text: string) => void warnings.push(text),
  };
  const hosts = new HostsBook({ directory: folder, clock: systemClock, log });
  source = createRegistrySource({
    clock: systemClock,
    random: () => 0,
    options: { headersTimeoutMs: 500, stallTimeoutMs: 500, connectTimeoutMs: 2_000 },
    upstreams: (host, plain) => hosts.upstreams(host, plain),
    observe: { request: (host) => void asked.push(host) },
    log,
  });
});

afterEach(async () => {
  await source.close();
  await rm(folder, { recursive: true, force: true });
});

/** What the registry's hosts.toml says. */
async function configure(text: string, host = registry.host): Promise<void> {
  const at = join(folder, host.replace(/:([0-9]+)$/, "_$1_"));
  await mkdir(at, { recursive: true });
  await writeFile(join(at, "hosts.toml"), text);
}

function mirror(url: string, more = ""): string {
  return `[host."${url}"]\n  capabilities = ["pull", "resolve"]\n${more}\n`;
}

function options(): FetchOptions {
  return { signal: new AbortController().signal, deadlineMs: systemClock.nowMs() + 20_000 };
}

async function read(offset: number, length: number, host = registry.host): Promise<Uint8Array> {
  const origin = { kind: "registry", host, repository: REPOSITORY } as const;
  const blob = { origin, digest: digestOf(CONTENT), size: CONTENT.length };
  const pieces: Uint8Array[] = [];
  const keep = (piece: Uint8Array): void => void pieces.push(Uint8Array.from(piece));
  await source.readRange(blob, { offset, length }, keep, options());
  return Uint8Array.from(Buffer.concat(pieces));
}

async function expectRight(offset: number, length = 1_000, host?: string): Promise<void> {
  const wanted = CONTENT.subarray(offset, offset + length);
  expect(sameBytes(await read(offset, length, host), wanted)).toBe(true);
}

async function manifestDigest(host = registry.host): Promise<string> {
  const origin = { kind: "registry", host, repository: REPOSITORY } as const;
  return (await source.fetchManifest(origin, "v1", options())).digest;
}

const NOWHERE = "registry.invalid:5000";

describe("a second registry as a pull-through mirror", () => {
  let through: RunningRegistry;

  beforeAll(async () => {
    through = await startDockerRegistry({ proxyOf: `http://${registry.host}` });
  });

  afterAll(() => through.stop());

  it("serves tags and, once it has the blob itself, ranges; until then the registry does", async () => {
    await configure(mirror(`http://${through.host}`));
    expect(await manifestDigest()).toBe(image.descriptor.digest);
    expect(asked).toEqual([through.host]);
    await expectRight(0);
    // It has been asked, so it fetches the blob; then it serves it by itself.
    const url = `http://${through.host}/v2/${REPOSITORY}/blobs/${digestOf(CONTENT)}`;
    const headers = { range: "bytes=0-9" };
    while ((await fetch(url, { headers })).status !== 206) await new Promise(setImmediate);
    await source.close();
    source = await another();
    asked = [];
    for (const offset of [1_000, 5_000, 200_000]) await expectRight(offset);
    expect(asked).toEqual([through.host, through.host, through.host]);
  });

  it("serves when the registry itself is gone, also for a host nobody can reach", async () => {
    await configure(`server = "http://${NOWHERE}"\n${mirror(`http://${through.host}`)}`, NOWHERE);
    expect(await manifestDigest(NOWHERE)).toBe(image.descriptor.digest);
    await expectRight(7_000, 1_000, NOWHERE);
  });
});

/** A client that has not learnt anything yet. */
function another(): Promise<Source> {
  const log = {
    debug: () => undefined,
    warn: (_: object, text: string) => void warnings.push(text),
  };
  const hosts = new HostsBook({ directory: folder, clock: systemClock, log });
  return Promise.resolve(
    createRegistrySource({
      clock: systemClock,
      random: () => 0,
      upstreams: (host, plain) => hosts.upstreams(host, plain),
      observe: { request: (host) => void asked.push(host) },
      log,
    }),
  );
}

describe("a mirror", () => {
  it("that is dead is passed by, and asked no more after some failures", async () => {
    const dead = `127.0.0.1:${await freePort()}`;
    await configure(mirror(`http://${dead}`));
    for (let at = 0; at < 6; at += 1) await expectRight(at * 1_000);
    expect(asked.filter((host) => host === registry.host)).toHaveLength(6);
    expect(asked.filter((host) => host === dead)).toHaveLength(3);
    expect(warnings).toEqual([
      "the host fails again and again; it is asked no more until it works",
    ]);
  });

  it("that lies is found out by whoever checks the bytes, and not believed the second time", async () => {
    const lying = await startScriptedServer((request, socket) => {
      const whole = rightAnswer(request, CONTENT);
      whole[whole.length - 1] = (whole.at(-1) ?? 0) ^ 1;
      socket.write(whole);
    });
    await configure(mirror(`http://${lying.host}`));
    const wrong = await read(0, 1_000);
    expect(sameBytes(wrong, CONTENT.subarray(0, 1_000))).toBe(false);
    await expectRight(0);
    await expectRight(1_000);
    expect(lying.requests).toHaveLength(1);
    await lying.close();
  });

  it("that stalls in the middle is gone on from at the registry", async () => {
    const slow = await startScriptedServer((request, socket) => {
      const whole = rightAnswer(request, CONTENT);
      socket.write(whole.subarray(0, whole.length - 500));
    });
    await configure(mirror(`http://${slow.host}`));
    await expectRight(0, 10_000);
    expect(asked).toEqual([slow.host, registry.host]);
    await slow.close();
  });

  it("that never answers is given up after the headers timeout", async () => {
    const silent = await startScriptedServer(() => undefined);
    await configure(mirror(`http://${silent.host}`));
    await expectRight(0, 10_000);
    expect(asked).toEqual([silent.host, registry.host]);
    await silent.close();
  });

  it("that may only pull is not asked for tags", async () => {
    const second = await startDockerRegistry();
    await pushBlob({ host: second.host, repository: REPOSITORY }, CONTENT);
    await configure(`[host."http://${second.host}"]\n  capabilities = ["pull"]\n`);
    expect(await manifestDigest()).toBe(image.descriptor.digest);
    await expectRight(0);
    expect(asked).toEqual([registry.host, second.host]);
    await second.stop();
  });

  it("that is not what its name in the file says is one clear warning, and the registry serves", async () => {
    await configure(mirror("http://127.0.0.1:1", "  dial_timeout = 5"));
    await expectRight(0);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(
      /hosts\.toml: host\."http:\/\/127\.0\.0\.1:1"\.dial_timeout: .*as if the file were not there/,
    );
  });
});

describe("a registry behind nginx with TLS of a private authority", () => {
  let nginx: RunningNginx;
  let files: Awaited<ReturnType<typeof certifyWithClient>>;

  beforeAll(async () => {
    files = await certifyWithClient();
    nginx = await startNginx({
      ...files,
      upstream: registry.host,
      // The API at a path of its own, and one that wants a header.
      locations: [
        "location /odd/root/ { proxy_pass http://REGISTRY/v2/; }",
        'location /keyed/v2/ { if ($http_x_site_key != "k1") { return 403; } proxy_pass http://REGISTRY/v2/; }',
      ],
    });
  });

  afterAll(async () => {
    await nginx.stop();
    await rm(files.folder, { recursive: true, force: true });
  });

  const only = (url: string, more: string): string => `server = "${url}"\n${more}\n`;

  it("is not believed without its authority, and says so", async () => {
    await configure(only(`https://${nginx.host}`, ""), NOWHERE);
    const fault = await faultFrom(read(0, 100, NOWHERE));
    expect(fault).toMatchObject({ code: "registry_unreachable", host: nginx.host });
    expect("detail" in fault ? fault.detail : "").toMatch(/^TLS failed/);
  });

  it.each([
    ["ca as a path", () => `ca = "${files.caFile}"`],
    ["ca in a list", () => `ca = ["${files.caFile}"]`],
    ["skip_verify", () => "skip_verify = true"],
  ])("is read with %s", async (_, more) => {
    await configure(only(`https://${nginx.host}`, more()), NOWHERE);
    await expectRight(0, 1_000, NOWHERE);
    expect(await manifestDigest(NOWHERE)).toBe(image.descriptor.digest);
  });

  it("is read with docker's certificate files, and no hosts.toml", async () => {
    const at = join(folder, nginx.host);
    await mkdir(at);
    await writeFile(join(at, "ca.crt"), files.ca);
    await expectRight(0, 1_000, nginx.host);
    expect(warnings).toEqual([]);
  });

  it.each([
    ["a pair", () => `client = [["${files.clientCert}", "${files.clientKey}"]]`],
    ["one file with both", () => `client = "${files.clientBoth}"`],
  ])("that wants a client's certificate is read with %s", async (_, client) => {
    await configure(only(`https://${nginx.strictHost}`, `ca = "${files.caFile}"`), NOWHERE);
    const fault = await faultFrom(read(0, 100, NOWHERE));
    expect(fault).toMatchObject({ code: "registry_failed", status: 400 });
    const other = "other.invalid:5000";
    const more = `ca = "${files.caFile}"\n${client()}`;
    await configure(only(`https://${nginx.strictHost}`, more), other);
    await expectRight(0, 1_000, other);
  });

  it("at a path of its own is read with override_path, and with a path before /v2", async () => {
    const ca = `ca = "${files.caFile}"`;
    const odd = only(`https://${nginx.host}/odd/root`, `override_path = true\n${ca}`);
    await configure(odd, NOWHERE);
    await expectRight(0, 1_000, NOWHERE);
    const keyed = "keyed.invalid:5000";
    await configure(
      only(`https://${nginx.host}/keyed`, `${ca}\n[header]\n  x-site-key = "k1"`),
      keyed,
    );
    await expectRight(0, 1_000, keyed);
    const unkeyed = "unkeyed.invalid:5000";
    await configure(only(`https://${nginx.host}/keyed`, ca), unkeyed);
    expect((await faultFrom(read(0, 100, unkeyed))).code).toBe("registry_unauthorized");
  });
});
