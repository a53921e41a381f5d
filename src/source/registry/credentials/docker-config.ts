// SPDX-License-Identifier: Apache-2.0
// Docker's config.json, as far as it is about registries: auths, credHelpers, credsStore
// (docker docs, "docker login"). Pure. One bad entry does not spoil the others; what is wrong
// is told without quoting values, which are secrets.

import { type Credentials, Grant, credentialsProblem } from "./grant.ts";
import { type HostKey, parseHostKey } from "./host-keys.ts";

export interface DockerEntry extends HostKey {
  readonly grant: Grant;
}

export interface DockerConfig {
  readonly entries: readonly DockerEntry[];
  /** Canonical host to the NAME in `docker-credential-NAME`. */
  readonly programs: ReadonlyMap<string, string>;
  /** The program for all other hosts. */
  readonly store: string | undefined;
}

export interface ParsedDockerConfig {
  /** Undefined when nothing of it can be used. */
  readonly config: DockerConfig | undefined;
  readonly problems: readonly string[];
}

const ENTRIES_MAX = 10_000;
/** No slash: a program is looked for in PATH, and nowhere else. */
const PROGRAM_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

type Table = Readonly<Record<string, unknown>>;

export function parseDockerConfig(text: string): ParsedDockerConfig {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The reason would quote the text.
    return { config: undefined, problems: ["it is not JSON"] };
  }
  if (!isTable(json)) return { config: undefined, problems: ["it is not a JSON object"] };
  const problems: string[] = [];
  const auths = tableOf(json, "auths", problems);
  const helpers = tableOf(json, "credHelpers", problems);
  const store = textOf(json, "credsStore");
  const isName = store !== undefined && PROGRAM_NAME.test(store);
  if (store !== undefined && !isName) problems.push("credsStore is not a program's name");
  const config = {
    entries: parseAuths(auths, problems),
    programs: parsePrograms(helpers, problems),
    store: isName ? store : undefined,
  };
  return { config, problems };
}

/** Docker prefers the key that is the host itself to one that is a URL: it comes first. */
function parseAuths(auths: Table, problems: string[]): readonly DockerEntry[] {
  const isURL = (key: string): number => (/^https?:/i.test(key) ? 1 : 0);
  const given = Object.entries(auths).sort(([a], [b]) => isURL(a) - isURL(b));
  if (given.length > ENTRIES_MAX) problems.push(`auths has more than ${ENTRIES_MAX} entries`);
  const entries: DockerEntry[] = [];
  for (const [name, value] of given.slice(0, ENTRIES_MAX)) {
    const key = parseHostKey(name);
    if (key === undefined) {
      problems.push("a key in auths names no host");
      continue;
    }
    const credentials = isTable(value) ? parseEntry(value) : "it is not an object";
    // An entry without any is docker's mark that its store has them.
    if (credentials === undefined) continue;
    if (typeof credentials === "string") problems.push(`auths of ${key.host}: ${credentials}`);
    else entries.push({ ...key, grant: new Grant(credentials) });
  }
  return entries;
}

/** What is wrong with it, as a text; undefined when it says nothing. */
function parseEntry(entry: Table): Credentials | string | undefined {
  const [auth, username, password, identity, bearer] = [
    "auth",
    "username",
    "password",
    "identitytoken",
    "registrytoken",
  ].map((name) => textOf(entry, name));
  const pair = auth === undefined ? { username, password } : parseAuth(auth);
  if (pair === undefined) return "auth is not user:password in base64";
  const credentials =
    bearer !== undefined
      ? { bearer }
      : identity !== undefined
        ? { identityToken: identity, username: pair.username }
        : pair.username !== undefined && pair.password !== undefined
          ? { username: pair.username, password: pair.password }
          : undefined;
  return credentials === undefined ? undefined : (credentialsProblem(credentials) ?? credentials);
}

/** `user:password` in base64; old versions of docker filled it up with zero bytes. */
function parseAuth(auth: string): { username: string; password: string | undefined } | undefined {
  if (!BASE64.test(auth)) return undefined;
  const text = Buffer.from(auth, "base64").toString("utf8");
  const colon = text.indexOf(":");
  if (colon < 1) return undefined;
  const password = text.slice(colon + 1).replace(/\0+$/, "");
  return { username: text.slice(0, colon), password: password === "" ? undefined : password };
}

function parsePrograms(helpers: Table, problems: string[]): ReadonlyMap<string, string> {
  const programs = new Map<string, string>();
  for (const [name, program] of Object.entries(helpers).slice(0, ENTRIES_MAX)) {
    const key = parseHostKey(name);
    if (key === undefined) problems.push("a key in credHelpers names no host");
    else if (typeof program !== "string" || !PROGRAM_NAME.test(program)) {
      problems.push(`credHelpers of ${key.host}: it is not a program's name`);
    } else programs.set(key.host, program);
  }
  return programs;
}

function tableOf(table: Table, name: string, problems: string[]): Table {
  const value = Object.hasOwn(table, name) ? table[name] : undefined;
  if (isTable(value)) return value;
  if (value !== undefined && value !== null) problems.push(`${name} is not an object`);
  return {};
}

function textOf(table: Table, name: string): string | undefined {
  const value = Object.hasOwn(table, name) ? table[name] : undefined;
  return typeof value === "string" && value !== "" ? value : undefined;
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
