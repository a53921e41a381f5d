// SPDX-License-Identifier: Apache-2.0
// How to reach single repositories: credentials, TLS, timeouts and a proxy, beside what holds for
// all. Whoever gets such a profile puts it into the book; the registry client looks it up for
// every request, so that renewed credentials count at once, also for what is under way.
// Credentials and a proxy's address are secrets: they are in private fields, and nothing here
// prints them.

import { inspect } from "node:util";
import { DaemonError } from "../../errors.ts";
import { type Credentials, Grant, credentialsProblem, isSameGrant } from "./credentials/grant.ts";

export interface ProxyProfile {
  /** `http://[user:password@]host[:port]`. */
  readonly url: string;
  /** Answers 2xx or 3xx while the proxy works; looked at in the background while it is used. */
  readonly pingUrl?: string | undefined;
  /** Go to the origin when the proxy fails (no connection, 5xx, a failing ping). */
  readonly fallback: boolean;
  readonly checkIntervalMs: number;
  /** Ask the proxy for http where the origin has https, so that it sees what is asked. */
  readonly useHttp?: boolean | undefined;
  /** Sent to the proxy alone, with every request. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** Sent too with what nobody waits for, so that the proxy may fetch the rest of the blob. */
  readonly prefetchHeaders?: Readonly<Record<string, string>> | undefined;
  /** In what pieces it and its peers keep and share bytes. */
  readonly pieceBytes?: number | undefined;
  /** What nobody waits for is asked of the origin when the proxy has sent nothing for so long. */
  readonly patienceMs?: number | undefined;
}

export const PROXY_PIECE_BYTES = 4 * 1024 * 1024;
export const PROXY_PATIENCE_MS = 5_000;

/** What is left out is as in the registry client's options. */
export interface AccessProfile {
  readonly scheme?: "http" | "https" | undefined;
  readonly credentials?: Credentials | undefined;
  /** Any certificate will do. */
  readonly skipVerify?: boolean | undefined;
  /** Paths of PEM files, trusted beside the system's. */
  readonly caFiles?: readonly string[] | undefined;
  readonly connectTimeoutMs?: number | undefined;
  readonly headersTimeoutMs?: number | undefined;
  readonly stallTimeoutMs?: number | undefined;
  readonly proxy?: ProxyProfile | undefined;
  /** Replace scheme and host of where a registry redirects to. */
  readonly blobUrlScheme?: "http" | "https" | undefined;
  readonly blobRedirectedHost?: string | undefined;
}

const ENTRIES_MAX = 4096;

/** A profile in the book. */
export class Access {
  /** Undefined: nobody; other credentials are not looked for then. */
  readonly grant: Grant | undefined;
  readonly #profile: Omit<AccessProfile, "credentials">;
  /** Another one for other credentials: what was got for old ones is not used with new ones. */
  readonly credentialsVersion: number;

  constructor(
    profile: Omit<AccessProfile, "credentials">,
    grant: Grant | undefined,
    credentialsVersion: number,
  ) {
    this.grant = grant;
    this.#profile = profile;
    this.credentialsVersion = credentialsVersion;
  }

  /** The proxy's address may hold a password. */
  get profile(): Omit<AccessProfile, "credentials"> {
    return this.#profile;
  }

  toJSON(): object {
    const { proxy, ...shown } = this.#profile;
    return {
      ...shown,
      ...(this.grant === undefined ? {} : { credentials: "[secret]" }),
      ...(proxy === undefined ? {} : { proxy: new URL(proxy.url).host }),
    };
  }

  toString(): string {
    return JSON.stringify(this);
  }

  [inspect.custom](): string {
    return `Access ${this.toString()}`;
  }
}

/** Bounded: a profile too many is refused, for forgetting another would stop its readers. */
export class AccessBook {
  readonly #entriesMax: number;
  readonly #entries = new Map<string, Access>();
  #versions = 0;

  constructor({ entriesMax = ENTRIES_MAX }: { readonly entriesMax?: number } = {}) {
    this.#entriesMax = entriesMax;
  }

  /**
   * Replaces what was known of the repository; `host` as in its origin. The same credentials keep
   * their tokens. Fault: request_invalid, which names the field and not its value.
   */
  set(host: string, repository: string, profile: AccessProfile): void {
    checkProfile(profile);
    const key = keyOf(host, repository);
    const before = this.#entries.get(key);
    if (before === undefined && this.#entries.size >= this.#entriesMax) {
      throw refused("host", `access to ${this.#entriesMax} repositories is known already`);
    }
    const { credentials, ...others } = profile;
    const grant = credentials === undefined ? undefined : new Grant(credentials);
    const isSame = before !== undefined && isSameGrant(before.grant, grant);
    if (!isSame) this.#versions += 1;
    const version = isSame ? before.credentialsVersion : this.#versions;
    this.#entries.set(key, new Access(others, isSame ? before.grant : grant, version));
  }

  get(host: string, repository: string): Access | undefined {
    return this.#entries.get(keyOf(host, repository));
  }

  /** False when it was not there. */
  delete(host: string, repository: string): boolean {
    return this.#entries.delete(keyOf(host, repository));
  }

  toJSON(): object {
    return { repositories: [...this.#entries.keys()] };
  }

  toString(): string {
    return JSON.stringify(this);
  }

  [inspect.custom](): string {
    return `AccessBook ${this.toString()}`;
  }
}

function keyOf(host: string, repository: string): string {
  return `${host.toLowerCase()}/${repository}`;
}

function checkProfile({ credentials, proxy, blobRedirectedHost }: AccessProfile): void {
  const problem = credentials === undefined ? undefined : credentialsProblem(credentials);
  if (problem !== undefined) throw refused("credentials", problem);
  if (proxy !== undefined && !isHTTP(proxy.url)) {
    throw refused("proxy.url", "write http://host:port");
  }
  if (proxy?.pingUrl !== undefined && !isHTTP(proxy.pingUrl)) {
    throw refused("proxy.ping_url", "write http://host:port/path");
  }
  if (blobRedirectedHost !== undefined && !URL.canParse(`http://${blobRedirectedHost}/`)) {
    throw refused("blob_redirected_host", "it is not a host");
  }
}

function isHTTP(url: string): boolean {
  return URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
}

function refused(field: string, detail: string): DaemonError {
  return new DaemonError({ code: "request_invalid", field, detail });
}
