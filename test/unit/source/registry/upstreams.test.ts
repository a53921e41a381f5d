// SPDX-License-Identifier: Apache-2.0
// A registry with mirrors before it: who is asked for what, and who comes next.
import { expect, it } from "vitest";
import { AccessBook } from "../../../../src/source/registry/access.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { OCI_MANIFEST, jsonBytes } from "../../../support/oci-image.ts";
import { freePort } from "../../../support/port.ts";
import { mirrorAt, startMirrored } from "../../../support/mirrored-client.ts";
import { CONTENT, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  askedRange,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";

const EXTENT = { offset: 5_000, length: 40_000 };
const WANTED = CONTENT.subarray(5_000, 45_000);
const MANIFEST = jsonBytes({ schemaVersion: 2 });

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

function answer(status: number, headers: Record<string, string> = {}, body?: Uint8Array): Respond {
  return (_, socket) => socket.write(response(status, headers, body));
}

const options = () => ({
  signal: new AbortController().signal,
  deadlineMs: performance.now() + 9_000,
});

it("asks the mirror first, and tells it what it mirrors", async () => {
  await using made = await startMirrored(right);
  expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
  const { digest } = made.client.blob;
  expect(made.mirror.requests.map(({ path }) => path)).toEqual([
    `/v2/team/app/blobs/${digest}?ns=registry.example%3A5000`,
  ]);
  expect(made.client.server.requests).toEqual([]);
});

it.each<[string, Respond]>([
  ["500", answer(500)],
  ["404", answer(404)],
  ["401", answer(401)],
  ["403", answer(403)],
  ["429 with a long pause", answer(429, { "retry-after": "3600" })],
  ["416", answer(416, { "content-range": "bytes */7" })],
  ["another size", answer(206, { "content-range": "bytes 5000-44999/45000" }, WANTED)],
  ["the whole blob", answer(200, {}, CONTENT)],
  ["a closed connection", (_, socket) => socket.end()],
  ["no HTTP", (_, socket) => socket.end("SSH-2.0-OpenSSH\r\n\r\n")],
  ["an error dressed as 200", answer(200, {}, jsonBytes({ error: "sorry" }))],
])("goes on at the registry at once when the mirror answers %s", async (_, respond) => {
  await using made = await startMirrored(respond);
  expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
  expect(made.mirror.requests).toHaveLength(1);
  expect(made.client.server.requests).toHaveLength(1);
  expect(made.client.observed.failures).toHaveLength(1);
});

it("goes on at the registry at the byte where the mirror stopped", async () => {
  await using made = await startMirrored((request, socket) => {
    const whole = rightAnswer(request, CONTENT);
    socket.end(whole.subarray(0, whole.indexOf("\r\n\r\n") + 4 + 12_345));
  });
  expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
  const [request] = made.client.server.requests;
  expect(request?.headers.get("range")).toBe("bytes=17345-44999");
});

it("goes on at the registry when the mirror cannot be reached", async () => {
  const dead = mirrorAt(`127.0.0.1:${await freePort()}`);
  await using client = await startClient(right, {
    upstreams: (_, plain) => Promise.resolve([dead, plain]),
  });
  expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
});

it("goes on at the registry when the mirror's name does not resolve", async () => {
  await using client = await startClient(right, {
    upstreams: (_, plain) => Promise.resolve([mirrorAt("mirror.invalid:5000"), plain]),
  });
  expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
  expect(client.logged.join()).toContain("the host name does not resolve");
});

it("goes on at the registry when the mirror does not shake hands within its dial timeout", async () => {
  const silent = await startScriptedServer(() => undefined);
  const plain = mirrorAt(silent.host);
  const secure = new URL(plain.baseUrl.href.replace("http:", "https:"));
  const mirror = { ...plain, baseUrl: secure, connectTimeoutMs: 100 };
  await using client = await startClient(right, {
    upstreams: (_, registry) => Promise.resolve([mirror, registry]),
  });
  expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
  expect(client.observed.failures).toEqual(["registry_timeout"]);
  expect(client.logged.join()).toContain("no connection in time");
  await silent.close();
});

it("goes round again when all have failed, and may end at the mirror", async () => {
  await using made = await startMirrored(
    (request, socket) => (request.index === 0 ? socket.end() : right(request, socket)),
    { registry: answer(503) },
  );
  expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
  expect(made.mirror.requests).toHaveLength(2);
  expect(made.client.server.requests).toHaveLength(1);
});

it("counts rounds, not requests, and fails with what the registry says", async () => {
  await using made = await startMirrored(answer(500), { registry: answer(502) });
  const { fault } = await made.client.readFault(EXTENT, { attemptsMax: 2 });
  expect(fault).toMatchObject({ status: 502, host: made.client.server.host });
  expect(made.mirror.requests).toHaveLength(2);
  expect(made.client.server.requests).toHaveLength(2);
});

it("takes the registry's word that there is no such blob", async () => {
  await using made = await startMirrored(answer(500), { registry: answer(404) });
  expect((await made.client.readFault(EXTENT)).fault).toMatchObject({
    code: "blob_not_found",
    host: made.client.server.host,
  });
  expect(made.mirror.requests).toHaveLength(1);
});

it("never asks a mirror that may only pull what a tag names", async () => {
  const found = answer(200, { "content-type": OCI_MANIFEST }, MANIFEST);
  const fields = { capabilities: { pull: true, resolve: false } };
  await using made = await startMirrored(found, { registry: found, fields });
  const { client, mirror } = made;
  const { digest } = await client.source.fetchManifest(client.origin, "v1", options());
  expect(mirror.requests).toEqual([]);
  await client.source.fetchManifest(client.origin, digest, options());
  expect(mirror.requests.map(({ path }) => path.replace(/\?.*/, ""))).toEqual([
    `/v2/team/app/manifests/${digest}`,
  ]);
});

it("refuses a manifest that is not what its digest says, and asks the next", async () => {
  const found = answer(200, { "content-type": OCI_MANIFEST }, MANIFEST);
  const forged = answer(200, { "content-type": OCI_MANIFEST }, jsonBytes({ schemaVersion: 3 }));
  await using honest = await startMirrored(found, { registry: found });
  const { digest } = await honest.client.source.fetchManifest(
    honest.client.origin,
    "v1",
    options(),
  );
  await using made = await startMirrored(forged, { registry: found });
  const fetched = await made.client.source.fetchManifest(made.client.origin, digest, options());
  expect(fetched.bytes).toEqual(MANIFEST);
  expect(made.client.observed.failures).toEqual(["digest_mismatch"]);
});

it("keeps the registry's password from the mirror, and the mirror's headers from others", async () => {
  const access = new AccessBook();
  const guarded: Respond = (request, socket) => {
    if (request.headers.get("authorization") !== undefined) right(request, socket);
    else socket.write(response(401, { "www-authenticate": 'Basic realm="x"' }));
  };
  const elsewhere = await startScriptedServer(answer(500));
  const fields = { headers: { "x-mirror-key": "mirrorsecret" } };
  const redirect = answer(307, { location: `http://${elsewhere.host}/cdn` });
  const asked: Respond = (request, socket) =>
    (request.index === 0 ? redirect : guarded)(request, socket);
  await using made = await startMirrored(asked, { registry: guarded, fields, access });
  const credentials = { username: "alice", password: "secret" };
  access.set(made.client.server.host, "team/app", { credentials });
  await made.client.read(EXTENT);
  await made.client.read({ offset: 0, length: 10 });
  const authorizations = made.mirror.requests.map(({ headers }) => headers.get("authorization"));
  expect(authorizations).toEqual([undefined, undefined]);
  const keys = [...made.mirror.requests, ...elsewhere.requests, ...made.client.server.requests].map(
    ({ headers }) => headers.get("x-mirror-key"),
  );
  expect(keys.filter((key) => key !== undefined)).toEqual(["mirrorsecret", "mirrorsecret"]);
  expect(elsewhere.requests).toHaveLength(1);
  await elsewhere.close();
});

it("finds the whole way through many that break off after some bytes", async () => {
  let cuts = 0;
  const cut: Respond = (request, socket) => {
    cuts += 1;
    const { length } = askedRange(request);
    const whole = rightAnswer(request, CONTENT);
    const given = Math.min(length, 7_000);
    socket.end(whole.subarray(0, whole.indexOf("\r\n\r\n") + 4 + given));
  };
  await using made = await startMirrored(cut, { registry: cut });
  expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
  expect(cuts).toBe(6);
});
