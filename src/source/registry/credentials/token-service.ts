// SPDX-License-Identifier: Apache-2.0
// How a token is got from a registry's token service: by GET with a password or with nothing
// (distribution project, "Token Authentication Specification"), by POST with an identity token
// ("OAuth2 Token Authentication"); where there is no POST, by GET with it as a password, which
// some services want. All that passes here is secret.

import * as z from "zod";
import { DaemonError } from "../../../errors.ts";
import type { Challenge } from "../www-authenticate.ts";
import { type Grant, IDENTITY_USER, basicAuthorization } from "./grant.ts";

const TOKEN_LENGTH_MAX = 32 * 1024;
/** Without expires_in a token lasts 60 s, says the specification. */
const LIFETIME_DEFAULT_S = 60;
const LIFETIME_MIN_MS = 1_000;
const CLIENT_ID = "erofsd";
/** What services without the OAuth2 way answer its POST with. */
const NO_POST = new Set([401, 404, 405]);
const REFUSALS = new Set([401, 403]);

const token = z.string().min(1).max(TOKEN_LENGTH_MAX);
const answerSchema = z.object({
  token: token.optional(),
  access_token: token.optional(),
  refresh_token: token.optional().catch(undefined),
  expires_in: z.number().min(0).max(10_000_000).optional().catch(undefined),
  issued_at: z.string().optional().catch(undefined),
});

/** What may go into a header: anything else in a token would be a way to add one. */
const TOKEN_SAFE = /^[\x21-\x7e]+$/;

/** A small document wanted from the token service. */
export interface DocumentRequest {
  readonly url: URL;
  readonly authorization: string | undefined;
  /** POSTed as a form. */
  readonly form: URLSearchParams | undefined;
}

export interface DocumentAnswer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  /** Empty unless the status is 200. */
  readonly bytes: Uint8Array;
}

export type SendDocument = (request: DocumentRequest) => Promise<DocumentAnswer>;

/** Where tokens are had, and for what. */
export interface TokenRealm {
  readonly url: URL;
  readonly service: string | undefined;
  readonly scopes: readonly string[];
}

export interface IssuedToken {
  readonly authorization: string;
  /** From now on. */
  readonly lifetimeMs: number;
}

/** Only over TLS, or at the very host that is spoken to without it; undefined elsewhere. */
export function tokenRealm(
  challenge: Challenge,
  { registry, repository }: { readonly registry: URL; readonly repository: string },
): TokenRealm | undefined {
  const realm = challenge.parameters.get("realm") ?? "";
  if (!URL.canParse(realm)) return undefined;
  const url = new URL(realm);
  const isPlainSibling =
    url.protocol === "http:" && registry.protocol === "http:" && url.hostname === registry.hostname;
  if (url.protocol !== "https:" && !isPlainSibling) return undefined;
  url.username = "";
  url.password = "";
  url.hash = "";
  const scope = challenge.parameters.get("scope") ?? `repository:${repository}:pull`;
  return { url, service: challenge.parameters.get("service"), scopes: scope.split(" ") };
}

/**
 * A token, or the status with which `grant` (or having none) is refused. Faults: those of `send`,
 * registry_failed, registry_protocol.
 */
export async function fetchToken(
  realm: TokenRealm,
  grant: Grant | undefined,
  parts: { readonly send: SendDocument; readonly wallClockMs: () => number },
): Promise<IssuedToken | number> {
  const { send } = parts;
  const identityToken = grant?.identityToken;
  if (grant !== undefined && identityToken !== undefined) {
    const answer = await send(postRequest(realm, identityToken));
    // invalid_grant and its like come with 400.
    if (answer.status === 400 || answer.status === 403) return answer.status;
    if (!NO_POST.has(answer.status)) return issued(answer, realm, grant, parts.wallClockMs);
    const authorization = basicAuthorization(grant.username ?? IDENTITY_USER, identityToken);
    const second = await send(getRequest(realm, grant.username, authorization));
    return issued(second, realm, undefined, parts.wallClockMs);
  }
  const answer = await send(getRequest(realm, grant?.username, grant?.basicAuthorization));
  return issued(answer, realm, undefined, parts.wallClockMs);
}

function getRequest(
  { url, service, scopes }: TokenRealm,
  account: string | undefined,
  authorization: string | undefined,
): DocumentRequest {
  const asked = new URL(url);
  const query = asked.searchParams;
  if (service !== undefined) query.set("service", service);
  for (const scope of scopes) query.append("scope", scope);
  if (account !== undefined && authorization !== undefined) query.set("account", account);
  return { url: asked, authorization, form: undefined };
}

function postRequest({ url, service, scopes }: TokenRealm, identityToken: string): DocumentRequest {
  const form = new URLSearchParams({
    grant_type: "refresh_token",
    refresh_token: identityToken,
    client_id: CLIENT_ID,
    scope: scopes.join(" "),
  });
  if (service !== undefined) form.set("service", service);
  return { url, authorization: undefined, form };
}

/** `renewed` takes a new identity token, where the service gives one. */
function issued(
  { status, headers, bytes }: DocumentAnswer,
  { url }: TokenRealm,
  renewed: Grant | undefined,
  wallClockMs: () => number,
): IssuedToken | number {
  if (REFUSALS.has(status)) return status;
  const { host } = url;
  if (status !== 200) {
    throw new DaemonError({
      code: "registry_failed",
      host,
      status,
      detail: "a token to pull with",
    });
  }
  const answer = parseAnswer(bytes, host);
  const text = answer.token ?? answer.access_token;
  if (text === undefined || !TOKEN_SAFE.test(text)) {
    throw wrong(host, "its token service does not answer with a token");
  }
  if (renewed !== undefined && answer.refresh_token !== undefined) {
    renewed.renewIdentityToken(answer.refresh_token);
  }
  const lifetimeMs = (answer.expires_in ?? LIFETIME_DEFAULT_S) * 1000;
  const ageMs = ageOf(answer.issued_at, headers, wallClockMs);
  return {
    authorization: `Bearer ${text}`,
    lifetimeMs: Math.max(lifetimeMs - ageMs, LIFETIME_MIN_MS),
  };
}

function parseAnswer(bytes: Uint8Array, host: string): z.infer<typeof answerSchema> {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    // The cause would quote the answer, which may hold a token.
    throw wrong(host, "its token service does not answer with JSON");
  }
  return answerSchema.safeParse(json).data ?? {};
}

/** A service may hand out a token again that it has issued before. By its own clock, if it tells. */
function ageOf(
  issuedAt: string | undefined,
  headers: ReadonlyMap<string, string>,
  wallClockMs: () => number,
): number {
  const issuedMs = Date.parse(issuedAt ?? "");
  if (Number.isNaN(issuedMs)) return 0;
  const dateMs = Date.parse(headers.get("date") ?? "");
  return Math.max(0, (Number.isNaN(dateMs) ? wallClockMs() : dateMs) - issuedMs);
}

function wrong(host: string, detail: string): DaemonError {
  return new DaemonError({ code: "registry_protocol", host, detail });
}
