// SPDX-License-Identifier: Apache-2.0
// What somebody may show a registry or its token service: a password, a token that is sent as it
// is, or an identity token (docker's word: it buys tokens at the token service, and is no
// password). All of it is secret: it is in private fields, and nothing here prints it.

import { inspect } from "node:util";

export type Credentials =
  | { readonly username: string; readonly password: string }
  /** Sent as it is. */
  | { readonly bearer: string }
  | { readonly identityToken: string; readonly username?: string | undefined };

/** With this user name a password is an identity token (docker's credential programs). */
export const IDENTITY_USER = "<token>";
const LENGTH_MAX = 32 * 1024;
/** What may go into a header. */
const HEADER_SAFE = /^[\x21-\x7e]+$/;

/** Why these cannot be sent; without quoting them. */
export function credentialsProblem(credentials: Credentials): string | undefined {
  if (Object.values(credentials).some((text) => text !== undefined && text.length > LENGTH_MAX)) {
    return `longer than ${LENGTH_MAX} characters`;
  }
  if ("bearer" in credentials) {
    return HEADER_SAFE.test(credentials.bearer) ? undefined : "it is not a token";
  }
  return credentials.username?.includes(":") === true ? "a user name has no colon" : undefined;
}

export class Grant {
  #credentials: Credentials;

  constructor(credentials: Credentials) {
    this.#credentials =
      "password" in credentials && credentials.username === IDENTITY_USER
        ? { identityToken: credentials.password }
        : credentials;
  }

  /** `Basic ...`, when there is a password. */
  get basicAuthorization(): string | undefined {
    const credentials = this.#credentials;
    return "password" in credentials
      ? basicAuthorization(credentials.username, credentials.password)
      : undefined;
  }

  /** `Bearer ...`, when it is sent as it is. */
  get bearerAuthorization(): string | undefined {
    const credentials = this.#credentials;
    return "bearer" in credentials ? `Bearer ${credentials.bearer}` : undefined;
  }

  get identityToken(): string | undefined {
    const credentials = this.#credentials;
    return "identityToken" in credentials ? credentials.identityToken : undefined;
  }

  /** Not a secret. */
  get username(): string | undefined {
    const credentials = this.#credentials;
    return "username" in credentials ? credentials.username : undefined;
  }

  /** The token service has given another identity token in its place. */
  renewIdentityToken(identityToken: string): void {
    const { username } = this;
    this.#credentials = { identityToken, username };
  }

  isSame(other: Grant | undefined): boolean {
    return (
      other !== undefined &&
      JSON.stringify(this.#credentials) === JSON.stringify(other.#credentials)
    );
  }

  toJSON(): string {
    return "[secret]";
  }

  toString(): string {
    return "[secret]";
  }

  [inspect.custom](): string {
    return "Grant [secret]";
  }
}

/** Also when there is none. */
export function isSameGrant(grant: Grant | undefined, other: Grant | undefined): boolean {
  return grant === undefined ? other === undefined : grant.isSame(other);
}

export function basicAuthorization(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`, "utf8").toString("base64")}`;
}
