// SPDX-License-Identifier: Apache-2.0
// What goes into Authorization. Many registries answer 401 with a Bearer challenge even for public
// repositories and hand a token to whoever asks; private ones want a password there, or with each
// request (a Basic challenge). One token for each repository and its credentials, kept until
// shortly before it expires, fetched once however many requests wait for it.
// (Distribution project, "Token Authentication Specification"; RFC 7617.) All of it is secret.

import { LRUCache } from "lru-cache";
import * as z from "zod";
import { DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Access } from "./access.ts";
import type { Upstream } from "./upstream.ts";
import { type Challenge, parseChallenges } from "./www-authenticate.ts";

const TOKENS_MAX = 1024;
const TOKEN_LENGTH_MAX = 32 * 1024;
/** Without expires_in a token lasts 60 s, says the specification. */
const LIFETIME_DEFAULT_S = 60;
/** A token is not sent in its last moments, or its last half when it is shorter-lived. */
const EXPIRY_MARGIN_MS = 5_000;
const LIFETIME_MIN_S = 1;

const answer = z.object({
  token: z.string().min(1).max(TOKEN_LENGTH_MAX).optional(),
  access_token: z.string().min(1).max(TOKEN_LENGTH_MAX).optional(),
  expires_in: z.number().min(0).max(10_000_000).optional(),
});

/** What may go into a header: anything else in a token would be a way to add one. */
const TOKEN_SAFE = /^[\x21-\x7e]+$/;

interface Token {
  readonly authorization: string;
  readonly expiresMs: number;
}

/** What is to be opened, and with which credentials. */
export interface Door {
  readonly registry: URL;
  readonly upstream: Upstream;
  readonly repository: string;
  readonly access: Access | undefined;
}

export interface TokenParts {
  readonly clock: Clock;
  /** GETs a small document for a door, with its password if it has one; at most 64 KiB. */
  readonly fetchDocument: (url: URL, door: Door) => Promise<Uint8Array>;
}

export class Tokens {
  readonly #clock: Clock;
  readonly #fetchDocument: TokenParts["fetchDocument"];
  readonly #tokens = new LRUCache<string, Token>({ max: TOKENS_MAX });
  readonly #underWay = new Map<string, Promise<Token>>();

  constructor(parts: TokenParts) {
    this.#clock = parts.clock;
    this.#fetchDocument = parts.fetchDocument;
  }

  /** The Authorization header to send, when it is known what opens the door. */
  authorization(door: Door): string | undefined {
    const given = door.access?.bearerAuthorization;
    if (given !== undefined) return given;
    const key = keyOf(door);
    const token = this.#tokens.get(key);
    if (token !== undefined && token.expiresMs > this.#clock.nowMs()) return token.authorization;
    this.#tokens.delete(key);
    return undefined;
  }

  /**
   * After a 401: finds what to send instead of `sent`, as its WWW-Authenticate header asks. False
   * when there is nothing else to send. Faults: those of a fetch, registry_protocol.
   */
  async answerChallenge(door: Door, header: string, sent: string | undefined): Promise<boolean> {
    const current = this.authorization(door);
    // Somebody got a new token, or the book has new credentials, while this request was on its way.
    if (current !== undefined && current !== sent) return true;
    this.#tokens.delete(keyOf(door));
    if (current !== undefined && current === door.access?.bearerAuthorization) return false;
    const challenges = parseChallenges(header);
    const bearer = challenges.find(({ scheme }) => scheme === "bearer");
    const url = bearer === undefined ? undefined : tokenUrl(bearer, door);
    if (url !== undefined) return await this.#getToken(url, door);
    const basic = door.access?.basicAuthorization;
    const isBasic = challenges.some(({ scheme }) => scheme === "basic");
    if (!isBasic || basic === undefined || basic === sent) return false;
    this.#tokens.set(keyOf(door), { authorization: basic, expiresMs: Number.POSITIVE_INFINITY });
    return true;
  }

  async #getToken(url: URL, door: Door): Promise<true> {
    const key = keyOf(door);
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) {
      await underWay;
      return true;
    }
    const fetching = this.#fetchToken(url, door);
    this.#underWay.set(key, fetching);
    try {
      this.#tokens.set(key, await fetching);
    } finally {
      this.#underWay.delete(key);
    }
    return true;
  }

  async #fetchToken(url: URL, door: Door): Promise<Token> {
    const bytes = await this.#fetchDocument(url, door);
    const { token, lifetimeS } = parseToken(bytes, url.host);
    const lifetimeMs = Math.max(lifetimeS, LIFETIME_MIN_S) * 1000;
    const usableMs = Math.max(lifetimeMs - EXPIRY_MARGIN_MS, lifetimeMs / 2);
    return { authorization: `Bearer ${token}`, expiresMs: this.#clock.nowMs() + usableMs };
  }
}

function parseToken(bytes: Uint8Array, host: string): { token: string; lifetimeS: number } {
  const wrong = (detail: string): DaemonError =>
    new DaemonError({ code: "registry_protocol", host, detail });
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    // The cause would quote the answer, which may hold a token.
    throw wrong("its token service does not answer with JSON");
  }
  const parsed = answer.safeParse(json);
  const token = parsed.data?.token ?? parsed.data?.access_token;
  if (token === undefined || !TOKEN_SAFE.test(token)) {
    throw wrong("its token service does not answer with a token");
  }
  return { token, lifetimeS: parsed.data?.expires_in ?? LIFETIME_DEFAULT_S };
}

/** Only over TLS, or at the very host that is spoken to without it. */
function tokenUrl(challenge: Challenge, { registry, repository }: Door): URL | undefined {
  const realm = challenge.parameters.get("realm") ?? "";
  if (!URL.canParse(realm)) return undefined;
  const url = new URL(realm);
  const isPlainSibling =
    url.protocol === "http:" && registry.protocol === "http:" && url.hostname === registry.hostname;
  if (url.protocol !== "https:" && !isPlainSibling) return undefined;
  url.username = "";
  url.password = "";
  url.hash = "";
  const service = challenge.parameters.get("service");
  if (service !== undefined) url.searchParams.set("service", service);
  const scope = challenge.parameters.get("scope") ?? `repository:${repository}:pull`;
  for (const part of scope.split(" ")) url.searchParams.append("scope", part);
  return url;
}

function keyOf({ registry, repository, access }: Door): string {
  return `${registry.origin} ${access?.credentialsVersion ?? 0} ${repository}`;
}
