// SPDX-License-Identifier: Apache-2.0
// Registries that each want another secret: real ones with passwords and with tokens, object
// storage behind signed URLs, a proxy with a password, and one that says back what it was told.

import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { join } from "node:path";
import { promisify } from "node:util";
import { EROFS_LAYER_V1 } from "../../../src/image/oci/media-types.ts";
import { startDockerRegistry } from "../../support/docker-registry.ts";
import { startForwardProxy } from "../../support/forward-proxy.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { freePort, portOf } from "../../support/port.ts";
import { pushImage } from "../../support/push.ts";
import { ISSUER, SERVICE, makeSigner, startTokenServer } from "../../support/token-server.ts";

const run = promisify(execFile);

/** A word that is found again in any output. */
export const secretOf = (way: string): string => `Zq9-${way}-9qZ`;

/** Those that have a user of their own at the registry, by that name. */
export const PASSWORD_WAYS = ["config", "docker", "environment", "login", "program"] as const;
export const WAYS = [...PASSWORD_WAYS, "token", "bearer", "signed", "mirror", "peers"] as const;
export type Way = (typeof WAYS)[number];

const PERL = "print crypt($ARGV[0], q($2b$04$CCCCCCCCCCCCCCCCCCCCC.))";

export interface SecretSite {
  /** Where each way's image is. */
  readonly references: readonly (readonly [Way, string])[];
  hostOf(way: Way): string;
  /** Answers everything with 403, and with all that it was told. */
  readonly echo: string;
  readonly mirror: string;
  readonly proxy: string;
  /** Of the token service: the last that it gave. */
  lastToken(): string;
  readonly asked: { readonly signed: number; readonly mirror: number; readonly peers: number };
  stop(): Promise<void>;
}

/** All of it, with an image of its own for each way, below `home`. */
export async function startSecretSite(home: string): Promise<SecretSite> {
  const storage = join(home, "registry");
  await pushImages(home, storage);
  const users = await Promise.all(PASSWORD_WAYS.map((way) => userLine(way)));
  const htpasswd = join(home, "users");
  await writeFile(htpasswd, users.join(""));
  const port = await freePort();
  const closed = await startDockerRegistry({ storage, htpasswd, port, address: "0.0.0.0" });
  const open = await startDockerRegistry({ storage });
  const signer = await makeSigner(home, "signer");
  const tokens = await startTokenServer(signer);
  tokens.users.set("token", secretOf("token"));
  const { realm } = tokens;
  const rootcertbundle = signer.certificateFile;
  const tokenAuth = { realm, service: SERVICE, issuer: ISSUER, rootcertbundle };
  const withTokens = await startDockerRegistry({ storage, tokens: tokenAuth });
  const asked = { signed: 0, mirror: 0 };
  const signed = await listen((request, answer) => redirect(request, answer, open.host, asked));
  const mirror = await listen((request, answer) => {
    if (request.headers["x-site-key"] !== secretOf("mirror")) return tellBack(request, answer);
    asked.mirror += 1;
    return passOn(request.url ?? "", request, answer, open.host);
  });
  const bearer = await listen((request, answer) => {
    const isIt = request.headers.authorization === `Bearer ${secretOf("bearer")}`;
    if (isIt) return passOn(request.url ?? "", request, answer, open.host);
    const wanted = { "www-authenticate": 'Bearer realm="http://127.0.0.1:9/"' };
    return void answer.writeHead(401, wanted).end();
  });
  const echo = await listen(tellBack);
  const peers = await startForwardProxy();
  const hostOf = (way: Way): string => {
    if (way === "token") return withTokens.host;
    if (way === "bearer") return hostOfServer(bearer);
    if (way === "signed") return hostOfServer(signed);
    if (way === "mirror") return "mirrored.invalid:5000";
    if (way === "peers") return open.host;
    return `127.0.0.${10 + WAYS.indexOf(way)}:${port}`;
  };
  const references = WAYS.map((way) => [way, `${hostOf(way)}/raw:${way}`] as const);
  return {
    references,
    hostOf,
    echo: hostOfServer(echo),
    mirror: hostOfServer(mirror),
    proxy: peers.url,
    lastToken: () => tokens.lastToken,
    get asked() {
      return { ...asked, peers: peers.asked };
    },
    async stop() {
      for (const server of [signed, mirror, bearer, echo]) {
        server.closeAllConnections();
        server.close();
      }
      await Promise.all([peers.close(), tokens.close()]);
      await Promise.all([closed.stop(), open.stop(), withTokens.stop()]);
    },
  };
}

async function pushImages(home: string, storage: string): Promise<void> {
  const registry = await startDockerRegistry({ storage });
  for (const way of WAYS) {
    const [tree, image] = [join(home, `tree-${way}`), join(home, `${way}.erofs`)];
    await mkdir(tree);
    await writeFile(join(tree, "file"), `${way}\n`.repeat(200_000));
    await mkfsErofs(image, tree, []);
    const layer = { body: { path: image }, mediaType: EROFS_LAYER_V1 };
    await pushImage({ host: registry.host, repository: "raw" }, way, [layer]);
  }
  await registry.stop();
}

async function userLine(way: Way): Promise<string> {
  const { stdout } = await run("perl", ["-e", PERL, secretOf(way)]);
  return `${way}:${stdout}\n`;
}

type Respond = (request: IncomingMessage, answer: ServerResponse) => Promise<void> | void;

async function listen(respond: Respond): Promise<Server> {
  const server = createServer((request, answer) => {
    // The client sees a connection that breaks.
    Promise.resolve(respond(request, answer)).catch(() => answer.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

const hostOfServer = (server: Server): string => `127.0.0.1:${portOf(server)}`;

/** Blobs are at a signed URL of the same host, everything else is passed on. */
function redirect(
  request: IncomingMessage,
  answer: ServerResponse,
  to: string,
  asked: { signed: number },
): Promise<void> | void {
  const path = request.url ?? "";
  if (path.startsWith("/store/")) {
    const [plain = "", query = ""] = path.slice("/store".length).split("?");
    if (!query.includes(secretOf("signed"))) return tellBack(request, answer);
    asked.signed += 1;
    return passOn(plain, request, answer, to);
  }
  if (!path.includes("/blobs/") || request.method !== "GET") {
    return passOn(path, request, answer, to);
  }
  const location = `http://${request.headers.host}/store${path}?X-Amz-Signature=${secretOf("signed")}`;
  answer.writeHead(307, { location }).end();
}

async function passOn(
  path: string,
  request: IncomingMessage,
  answer: ServerResponse,
  to: string,
): Promise<void> {
  const { range, accept = "*/*" } = request.headers;
  const headers = { accept, ...(range === undefined ? {} : { range }) };
  const method = request.method ?? "GET";
  const got = await fetch(`http://${to}${path}`, { method, headers });
  const body = Buffer.from(await got.arrayBuffer());
  answer.writeHead(got.status, Object.fromEntries(got.headers)).end(body);
}

function tellBack({ url, headers }: IncomingMessage, answer: ServerResponse): void {
  const message = JSON.stringify({ url, headers });
  answer.writeHead(403, { "content-type": "application/json", "x-told": message });
  answer.end(JSON.stringify({ errors: [{ code: message, message, detail: message }] }));
}
