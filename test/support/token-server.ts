// SPDX-License-Identifier: Apache-2.0
// A token service as registries have one (distribution project, "Token Authentication
// Specification" and "OAuth2 Token Authentication"), small but real: users, public repositories,
// identity tokens, and tokens that are JWTs signed with ES256, with the certificate in x5c. Key
// and certificate are made by openssl.

import { execFile } from "node:child_process";
import { type KeyObject, X509Certificate, createPrivateKey, sign } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import { join } from "node:path";
import { promisify } from "node:util";
import { portOf } from "./port.ts";

export const SERVICE = "the-registry";
export const ISSUER = "the-token-server";
export const LIFETIME_S = 300;

export interface Signer {
  readonly key: KeyObject;
  /** DER. */
  readonly certificate: Buffer;
  /** PEM, for the registry's rootcertbundle. */
  readonly certificateFile: string;
}

export async function makeSigner(folder: string, name: string): Promise<Signer> {
  const [keyFile, certificateFile] = ["key", "pem"].map((end) => join(folder, `${name}.${end}`));
  if (keyFile === undefined || certificateFile === undefined) throw new Error("unreachable");
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  const out = ["-keyout", keyFile, "-out", certificateFile, "-subj", `/CN=${name}`];
  await promisify(execFile)("openssl", ["req", "-x509", ...curve, ...out]);
  const certificate = new X509Certificate(await readFile(certificateFile)).raw;
  return { key: createPrivateKey(await readFile(keyFile)), certificate, certificateFile };
}

export interface TokenRequest {
  readonly method: string;
  /** Who it came from; empty for nobody. */
  readonly user: string;
  readonly scopes: readonly string[];
}

export interface TokenServer {
  readonly realm: string;
  /** Those that were answered with a token, and those that were not. */
  readonly requests: readonly TokenRequest[];
  /** User name to password. */
  readonly users: Map<string, string>;
  /** Identity token to user name. */
  readonly identities: Map<string, string>;
  /** Anyone may pull from these. */
  readonly publicRepositories: Set<string>;
  signer: Signer;
  /** Tokens are made as if this long ago, and said to live on for five minutes. */
  backdateS: number;
  /** The one issued last. */
  lastToken: string;
  close(): Promise<void>;
}

export async function startTokenServer(signer: Signer): Promise<TokenServer> {
  const requests: TokenRequest[] = [];
  const server = createServer((request, answer) => {
    // The client sees a connection that breaks.
    respond(request, answer).catch(() => answer.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const state: TokenServer = {
    realm: `http://127.0.0.1:${portOf(server)}/token`,
    requests,
    users: new Map(),
    identities: new Map(),
    publicRepositories: new Set(),
    signer,
    backdateS: 0,
    lastToken: "",
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  async function respond(request: IncomingMessage, answer: ServerResponse): Promise<void> {
    const method = request.method ?? "";
    const asked = await parametersOf(request);
    const scopes = asked.getAll("scope").flatMap((scope) => scope.split(" "));
    const user = userOf(state, request, asked);
    requests.push({ method, user: user ?? "", scopes });
    if (user === undefined || asked.get("service") !== SERVICE) {
      answer.writeHead(method === "POST" ? 400 : 401).end(JSON.stringify({ error: "refused" }));
      return;
    }
    const token = makeToken(state, user, scopes);
    const field = method === "POST" ? "access_token" : "token";
    answer.writeHead(200, { "content-type": "application/json" });
    state.lastToken = token;
    answer.end(JSON.stringify({ expires_in: LIFETIME_S, [field]: token }));
  }
  return state;
}

async function parametersOf(request: IncomingMessage): Promise<URLSearchParams> {
  if (request.method !== "POST") return new URL(request.url ?? "", "http://x").searchParams;
  request.setEncoding("utf8");
  let body = "";
  for await (const piece of request) body += String(piece);
  return new URLSearchParams(body);
}

/** Empty for nobody in particular; undefined for somebody with wrong credentials. */
function userOf(
  { users, identities }: TokenServer,
  request: IncomingMessage,
  asked: URLSearchParams,
): string | undefined {
  if (request.method === "POST") {
    if (asked.get("grant_type") !== "refresh_token") return undefined;
    return identities.get(asked.get("refresh_token") ?? "");
  }
  const { authorization } = request.headers;
  if (authorization === undefined) return "";
  const text = Buffer.from(authorization.replace(/^Basic /, ""), "base64").toString("utf8");
  const user = text.slice(0, text.indexOf(":"));
  return users.get(user) === text.slice(user.length + 1) ? user : undefined;
}

/** Users may do everything, others pull what is public. */
function makeToken(state: TokenServer, user: string, scopes: readonly string[]): string {
  const { signer, publicRepositories, backdateS } = state;
  const access = scopes.flatMap((scope) => {
    const [type = "", name = "", actions = ""] = scope.split(":");
    const may = user !== "" || publicRepositories.has(name);
    const granted = may
      ? actions.split(",").filter((action) => action === "pull" || user !== "")
      : [];
    return granted.length === 0 ? [] : [{ type, name, actions: granted }];
  });
  const nowS = Math.floor(Date.now() / 1000) - backdateS;
  const header = { typ: "JWT", alg: "ES256", x5c: [signer.certificate.toString("base64")] };
  const times = { iat: nowS, nbf: nowS - 10, exp: nowS + LIFETIME_S };
  const claims = { iss: ISSUER, aud: SERVICE, sub: user, jti: `${nowS}`, ...times, access };
  const text = [header, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
    .join(".");
  const signature = sign("sha256", Buffer.from(text), {
    key: signer.key,
    dsaEncoding: "ieee-p1363",
  });
  return `${text}.${signature.toString("base64url")}`;
}
