// SPDX-License-Identifier: Apache-2.0
// Anonymous pull tokens: many registries answer 401 with a Bearer challenge even for public
// repositories and hand a token to whoever asks. One token for each repository, kept until
// shortly before it expires, fetched once however many requests wait for it.
// (Distribution project, "Token Authentication Specification".) A token is a secret.

import { LRUCache } from "lru-cache";
import { z } from "zod";
import { DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
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

export interface TokenParts {
  readonly clock: Clock;
  /** GETs a small document; its body is at most 64 KiB. */
  readonly fetchDocument: (url: URL) => Promise<Uint8Array>;
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

  /** The Authorization header to send for a repository, when there is a token for it. */
  authorization(registry: URL, repository: string): string | undefined {
    const key = keyOf(registry, repository);
    const token = this.#tokens.get(key);
    if (token !== undefined && token.expiresMs > this.#clock.nowMs()) return token.authorization;
    this.#tokens.delete(key);
    return undefined;
  }

  /** The token did not open the door. */
  forget(registry: URL, repository: string): void {
    this.#tokens.delete(keyOf(registry, repository));
  }

  /**
   * Gets a token as the WWW-Authenticate header of a 401 asks. False when it has no challenge
   * that can be met without credentials. Faults: those of a fetch, registry_protocol.
   */
  async answerChallenge(registry: URL, repository: string, header: string): Promise<boolean> {
    const challenge = parseChallenges(header).find(({ scheme }) => scheme === "bearer");
    const url = challenge === undefined ? undefined : tokenUrl(challenge, registry, repository);
    if (url === undefined) return false;
    const key = keyOf(registry, repository);
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) {
      await underWay;
      return true;
    }
    const fetching = this.#fetchToken(url);
    this.#underWay.set(key, fetching);
    try {
      this.#tokens.set(key, await fetching);
    } finally {
      this.#underWay.delete(key);
    }
    return true;
  }

  async #fetchToken(url: URL): Promise<Token> {
    const bytes = await this.#fetchDocument(url);
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
function tokenUrl(challenge: Challenge, registry: URL, repository: string): URL | undefined {
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

function keyOf(registry: URL, repository: string): string {
  return `${registry.origin} ${repository}`;
}
