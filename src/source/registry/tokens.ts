// SPDX-License-Identifier: Apache-2.0
// What goes into Authorization. Many registries answer 401 with a Bearer challenge even for public
// repositories and hand a token to whoever asks; private ones want credentials there, or with each
// request (a Basic challenge). One token for each repository and its credentials, kept until
// shortly before it expires, fetched once however many requests wait for it. Credentials are asked
// for when a token is needed, never while one is known. All of it is secret.

import { LRUCache } from "lru-cache";
import { DaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Access } from "./access.ts";
import type { CredentialSource } from "./credentials/credential-source.ts";
import { type Grant, isSameGrant } from "./credentials/grant.ts";
import {
  type DocumentAnswer,
  type DocumentRequest,
  type TokenRealm,
  fetchToken,
  tokenRealm,
} from "./credentials/token-service.ts";
import type { Upstream } from "./upstream.ts";
import { type Challenge, parseChallenges } from "./www-authenticate.ts";

const TOKENS_MAX = 1024;
/** A token is not sent in its last moments, or its last half when it is shorter-lived. */
const EXPIRY_MARGIN_MS = 5_000;
/** Before that it is renewed by whoever uses it, who does not wait; or in its last quarter. */
const RENEWAL_MS = 10_000;
/** A 403 is taken for an old token's end (some registries answer so), not for a new one's. */
const FORBIDDEN_MIN_MS = 10_000;

interface Token {
  readonly authorization: string;
  readonly expiresMs: number;
  /** When to look for another one. */
  renewMs: number;
  readonly madeMs: number;
  /** The one that it answered. */
  readonly challenge: string;
  /** What it was bought with, or what it is. */
  readonly grant: Grant | undefined;
  /** The grant itself is sent: a password, or a token that was given. */
  readonly isGrant: boolean;
  /** Of the credentials when it was made. */
  readonly generation: number;
}

interface Opened extends Pick<Token, "authorization" | "isGrant"> {
  readonly usableMs: number;
}

/** What is to be found: an answer to a challenge, not with what was `sent`. */
interface Renewal {
  readonly challenge: string;
  readonly sent: string | undefined;
  /** Credentials that were refused. */
  readonly refused: Pick<Token, "grant"> | undefined;
}

/** What is to be opened, and with which credentials. */
export interface Door {
  readonly registry: URL;
  readonly upstream: Upstream;
  readonly repository: string;
  /** The repository's own profile; its credentials, or its having none, count before all others. */
  readonly access: Access | undefined;
}

/** A 401, or a 403 of what was let in before. */
export interface Refusal {
  /** Its WWW-Authenticate; undefined for a 403, which has none. */
  readonly challenge: string | undefined;
  /** The Authorization that was refused. */
  readonly sent: string | undefined;
  /** Not the first one of this request: the token that was just fetched was refused. */
  readonly isAgain: boolean;
}

export interface TokenParts {
  readonly clock: Clock;
  readonly wallClockMs: () => number;
  /** Asked for repositories without a profile of their own. */
  readonly credentials: CredentialSource | undefined;
  /** Aborted when the daemon stops. */
  readonly closing: AbortSignal;
  /** Gets a small document for a door; at most 64 KiB. */
  readonly fetchDocument: (request: DocumentRequest, door: Door) => Promise<DocumentAnswer>;
}

export class Tokens {
  readonly #parts: TokenParts;
  readonly #tokens = new LRUCache<string, Token>({ max: TOKENS_MAX });
  readonly #underWay = new Map<string, Promise<boolean>>();

  constructor(parts: TokenParts) {
    this.#parts = parts;
  }

  /**
   * The Authorization header to send, when it is known what opens the door. A promise of it only
   * when a token has to be fetched first, which never rejects.
   */
  authorization(door: Door): string | undefined | Promise<string | undefined> {
    const given = door.access?.grant?.bearerAuthorization;
    if (given !== undefined) return given;
    const key = keyOf(door);
    const token = this.#tokens.get(key);
    if (token === undefined) return undefined;
    const nowMs = this.#parts.clock.nowMs();
    const isGood = this.#isGood(token, nowMs);
    if (isGood && nowMs < token.renewMs) return token.authorization;
    const renewing = this.#renewQuietly(key, door, token);
    return isGood ? token.authorization : renewing;
  }

  /**
   * After a refusal: finds what to send instead. False when there is nothing else to send. Faults:
   * those of a fetch, registry_protocol, registry_unauthorized when the token service refuses.
   */
  async answerChallenge(door: Door, refusal: Refusal): Promise<boolean> {
    const { sent } = refusal;
    const given = door.access?.grant?.bearerAuthorization;
    if (given !== undefined) return given !== sent;
    const key = keyOf(door);
    const last = this.#tokens.get(key);
    const nowMs = this.#parts.clock.nowMs();
    // Somebody got a new token, or there are new credentials, while this request was on its way.
    if (last !== undefined && last.authorization !== sent && this.#isGood(last, nowMs)) return true;
    const challenge = refusal.challenge ?? last?.challenge;
    const isNew = last !== undefined && nowMs - last.madeMs < FORBIDDEN_MIN_MS;
    if (challenge === undefined || (refusal.challenge === undefined && isNew)) return false;
    this.#tokens.delete(key);
    const isRefused =
      last !== undefined && last.authorization === sent && (last.isGrant || refusal.isAgain);
    const refused = isRefused ? { grant: last.grant } : undefined;
    return await this.#renew(key, door, { challenge, sent, refused });
  }

  /** One renewal for all who wait for it. */
  async #renew(key: string, door: Door, wanted: Renewal): Promise<boolean> {
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return await underWay;
    const renewing = this.#find(key, door, wanted);
    this.#underWay.set(key, renewing);
    try {
      return await renewing;
    } finally {
      this.#underWay.delete(key);
    }
  }

  /** When it fails, the request is sent with what there is, and fails with a reason of its own. */
  async #renewQuietly(key: string, door: Door, token: Token): Promise<string | undefined> {
    token.renewMs = Number.POSITIVE_INFINITY;
    const { challenge } = token;
    try {
      await this.#renew(key, door, { challenge, sent: undefined, refused: undefined });
    } catch {
      // Its reason comes with the next 401.
    }
    const now = this.#tokens.get(key);
    const isGood = now !== undefined && this.#isGood(now, this.#parts.clock.nowMs());
    if (isGood) return now.authorization;
    this.#tokens.delete(key);
    return undefined;
  }

  #isGood({ expiresMs, generation }: Token, nowMs: number): boolean {
    return nowMs < expiresMs && generation === this.#generation;
  }

  get #generation(): number {
    return this.#parts.credentials?.generation ?? 0;
  }

  async #find(key: string, door: Door, wanted: Renewal): Promise<boolean> {
    let { refused } = wanted;
    let status: number | undefined;
    // Twice at most: the token service may refuse a password that has been changed meanwhile.
    for (;;) {
      // Credentials that are given while we ask are for the next token.
      const generation = this.#generation;
      const grant = await this.#grantFor(door, refused?.grant);
      const isNew = refused === undefined || !isSameGrant(grant, refused.grant);
      const opened = isNew ? await this.#open(door, grant, wanted) : undefined;
      if (typeof opened === "object") {
        this.#tokens.set(key, this.#tokenOf(opened, { grant, generation, ...wanted }));
        return true;
      }
      if (opened === undefined && status === undefined) return false;
      if (opened === undefined || status !== undefined) {
        throw unauthorized(door, opened ?? status ?? 401);
      }
      status = opened;
      refused = { grant };
    }
  }

  #tokenOf(
    { usableMs, ...opened }: Opened,
    from: Pick<Token, "grant" | "generation" | "challenge">,
  ): Token {
    const { grant, generation, challenge } = from;
    const madeMs = this.#parts.clock.nowMs();
    const expiresMs = madeMs + usableMs;
    const renewMs = opened.isGrant ? expiresMs : expiresMs - Math.min(RENEWAL_MS, usableMs / 4);
    return { ...opened, madeMs, expiresMs, renewMs, challenge, grant, generation };
  }

  #grantFor({ access, registry, repository }: Door, refused: Grant | undefined) {
    const { credentials, closing } = this.#parts;
    if (access !== undefined || credentials === undefined) return Promise.resolve(access?.grant);
    return credentials.find({ host: registry.host, repository, refused, signal: closing });
  }

  /** What opens the door; a status when `grant` is refused; undefined when it is of no use here. */
  async #open(
    door: Door,
    grant: Grant | undefined,
    { challenge, sent }: Renewal,
  ): Promise<Opened | number | undefined> {
    const challenges = parseChallenges(challenge);
    const given = grant?.bearerAuthorization;
    if (given !== undefined) return given === sent ? undefined : forEver(given);
    const realm = realmOf(challenges, door);
    if (realm !== undefined) {
      const { wallClockMs, fetchDocument } = this.#parts;
      const send = (request: DocumentRequest) => fetchDocument(request, door);
      const token = await fetchToken(realm, grant, { send, wallClockMs });
      if (typeof token === "number") return token;
      const { authorization, lifetimeMs } = token;
      const usableMs = Math.max(lifetimeMs - EXPIRY_MARGIN_MS, lifetimeMs / 2);
      return { authorization, usableMs, isGrant: false };
    }
    const basic = grant?.basicAuthorization;
    const isBasic = challenges.some(({ scheme }) => scheme === "basic");
    return isBasic && basic !== undefined && basic !== sent ? forEver(basic) : undefined;
  }
}

function realmOf(challenges: readonly Challenge[], door: Door): TokenRealm | undefined {
  const bearer = challenges.find(({ scheme }) => scheme === "bearer");
  return bearer === undefined ? undefined : tokenRealm(bearer, door);
}

/** Until it is refused. */
function forEver(authorization: string): Opened {
  return { authorization, usableMs: Number.POSITIVE_INFINITY, isGrant: true };
}

function unauthorized({ registry, repository }: Door, status: number): DaemonError {
  return new DaemonError({
    code: "registry_unauthorized",
    host: registry.host,
    repository,
    status,
  });
}

function keyOf({ registry, repository, access }: Door): string {
  return `${registry.origin} ${access?.credentialsVersion ?? 0} ${repository}`;
}
