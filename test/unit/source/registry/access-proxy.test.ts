// SPDX-License-Identifier: Apache-2.0
// A registry behind a proxy that works, fails in every way, or says that it is ill.
import { type Socket, connect } from "node:net";
import { expect, it } from "vitest";
import { AccessBook, type ProxyProfile } from "../../../../src/source/registry/access.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { certify } from "../../../support/certify.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { freePort } from "../../../support/port.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  type ScriptedRequest,
  type ScriptedServer,
  type ServerTLS,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";

const EXTENT = { offset: 10, length: 50_000 };
const WANTED = CONTENT.subarray(10, 50_010);
const INTERVAL_MS = 5_000;
/** Nobody waits for it: it is given to the proxy, and to the registry only when that fails. */
const CALM = { urgency: "prefetch" } as const;

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

interface Proxied extends AsyncDisposable {
  readonly client: ClientFixture;
  readonly proxy: ScriptedServer;
}

interface ProxiedOptions extends Partial<ProxyProfile> {
  readonly scheme?: "http" | "https";
  readonly clock?: FakeClock;
  readonly tls?: ServerTLS;
  readonly caFile?: string;
}

async function startProxied(
  respond: Respond,
  { scheme, clock, tls, caFile, ...profile }: ProxiedOptions = {},
): Promise<Proxied> {
  const proxy = await startScriptedServer(respond);
  const access = new AccessBook();
  const client = await startClient(right, {
    access,
    options: { attemptsMax: 2 },
    ...(clock && { clock }),
    ...(tls && { tls }),
  });
  access.set(client.server.host, "team/app", {
    scheme: caFile === undefined ? scheme : "https",
    caFiles: caFile === undefined ? [] : [caFile],
    proxy: {
      url: `http://me:proxysecret@${proxy.host}`,
      fallback: true,
      checkIntervalMs: INTERVAL_MS,
      ...profile,
    },
  });
  return {
    client,
    proxy,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await proxy.close();
    },
  };
}

it("asks the proxy, in absolute form, and not the registry", async () => {
  await using made = await startProxied(right);
  expect(sameBytes(await made.client.read(EXTENT, CALM), WANTED)).toBe(true);
  const { host } = made.client.server;
  const [request] = made.proxy.requests;
  expect(request?.path).toBe(`http://${host}/v2/team/app/blobs/${made.client.blob.digest}`);
  expect(request?.headers.get("host")).toBe(host);
  expect(request?.headers.get("proxy-authorization")).toBe(
    `Basic ${Buffer.from("me:proxysecret").toString("base64")}`,
  );
  expect(made.client.server.requests).toEqual([]);
});

it("asks for http where the profile wants that, though the registry has https", async () => {
  await using made = await startProxied(right, { scheme: "https", useHttp: true });
  expect(sameBytes(await made.client.read(EXTENT, CALM), WANTED)).toBe(true);
  expect(made.proxy.requests[0]?.path).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/v2\//);
});

it("goes through a tunnel to a registry with https, and sees its certificate", async () => {
  const tunnel: Respond = (request, socket) => {
    socket.removeAllListeners("data");
    const far = connect(Number(request.path.split(":")[1]), "127.0.0.1");
    far.on("error", () => socket.destroy());
    socket.write("HTTP/1.1 200 OK\r\n\r\n");
    socket.pipe(far).pipe(socket);
  };
  const { caFile, ...tls } = await certify();
  await using made = await startProxied(tunnel, { caFile, tls, fallback: false });
  expect(sameBytes(await made.client.read(EXTENT), WANTED)).toBe(true);
  const [request] = made.proxy.requests;
  expect([request?.method, request?.path]).toEqual(["CONNECT", made.client.server.host]);
  expect(request?.headers.get("proxy-authorization")).toMatch(/^Basic /);
  const blob = made.client.server.requests[0];
  expect(blob?.path).toBe(`/v2/team/app/blobs/${made.client.blob.digest}`);
  expect(blob?.headers.get("proxy-authorization")).toBeUndefined();
});

const peerToPeerError: Respond = (_, socket) => {
  socket.write(response(200, { "x-dragonfly-error-type": "backend" }));
};

function cut(request: ScriptedRequest, socket: Socket): void {
  socket.end(rightAnswer(request, CONTENT).subarray(0, 20_000));
}

it.each<[string, Respond]>([
  ["502", (_, socket) => socket.write(response(502))],
  ["407", (_, socket) => socket.write(response(407))],
  ["a closed connection", (_, socket) => socket.end()],
  ["no HTTP", (_, socket) => socket.end("SSH-2.0-OpenSSH\r\n\r\n")],
  ["an error in the form of a 200", peerToPeerError],
  ["a body that breaks off", cut],
])("goes to the registry when the proxy answers %s, with fallback", async (_, respond) => {
  await using made = await startProxied(respond);
  expect(sameBytes(await made.client.read(EXTENT, CALM), WANTED)).toBe(true);
  expect(made.proxy.requests).toHaveLength(1);
  expect(made.client.server.requests).toHaveLength(1);
});

it.each<[string, Respond, string]>([
  ["502", (_, socket) => socket.write(response(502)), "registry_failed"],
  ["a closed connection", (_, socket) => socket.end(), "registry_unreachable"],
])("fails when the proxy answers %s, without fallback", async (_, respond, code) => {
  await using made = await startProxied(respond, { fallback: false });
  const { fault } = await made.client.readFault(EXTENT);
  expect(fault.code).toBe(code);
  expect(JSON.stringify([fault, made.client.logged])).not.toContain("proxysecret");
  expect(made.client.server.requests).toEqual([]);
  expect(made.proxy.requests).toHaveLength(2);
});

it("names a proxy that cannot be reached", async () => {
  const host = `127.0.0.1:${await freePort()}`;
  await using made = await startProxied(right, { url: `http://${host}`, fallback: false });
  const { fault } = await made.client.readFault(EXTENT);
  expect("detail" in fault ? fault.detail : "").toContain(`through the proxy ${host}`);
});

it("asks the registry itself when it is said to refuse, for that may be the proxy's invention", async () => {
  await using made = await startProxied((_, socket) => socket.write(response(404)));
  expect(sameBytes(await made.client.read(EXTENT, CALM), WANTED)).toBe(true);
  expect(made.client.server.requests).toHaveLength(1);
});

it("has only what the proxy says, without fallback", async () => {
  await using made = await startProxied((_, socket) => socket.write(response(404)), {
    fallback: false,
  });
  expect((await made.client.readFault(EXTENT)).fault.code).toBe("blob_not_found");
  expect(made.client.server.requests).toEqual([]);
});

it.each([true, false])("with fallback %s heeds the proxy's ping", async (fallback) => {
  const clock = new FakeClock();
  let status = 200;
  const ping = await startScriptedServer((_, socket) => socket.write(response(status)));
  const pingUrl = `http://${ping.host}/healthy`;
  await using made = await startProxied(right, { clock, pingUrl, fallback });
  const { client, proxy } = made;
  // The next ping is planned when the answer to the last one is there.
  const answered = (): Promise<void> => clock.timerSet((delayMs) => delayMs === INTERVAL_MS);
  const nextPing = async (): Promise<void> => {
    await clock.advance(INTERVAL_MS);
    await answered();
  };
  await client.read(EXTENT);
  await clock.advance(0);
  await answered();
  status = 500;
  await nextPing();
  if (fallback) expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
  else {
    const { fault } = await client.readFault(EXTENT, { attemptsMax: 1 });
    expect(fault.code).toBe("registry_unreachable");
  }
  expect(proxy.requests).toHaveLength(1);
  status = 200;
  await nextPing();
  expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
  expect(proxy.requests).toHaveLength(2);
  expect(ping.requests.map(({ path }) => path)).toEqual(["/healthy", "/healthy", "/healthy"]);
  await client.source.close();
  expect(clock.pendingCount).toBe(0);
  await ping.close();
});
