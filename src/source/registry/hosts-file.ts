// SPDX-License-Identifier: Apache-2.0
// A hosts.toml as containerd's users write it (containerd, docs/hosts.md): which upstreams a
// registry has, in the order of the file, and how each is reached. Pure: text in, table out.
// What we do not know is ignored, as containerd does, but told; what is wrong is a fault.

import { isAbsolute, join } from "node:path";
import { TomlError, parse } from "smol-toml";
import * as z from "zod";
import { DaemonError } from "../../errors.ts";
import { parseDuration } from "./go-duration.ts";
import type { Capabilities, ClientCertificate } from "./upstream.ts";

export interface HostEntry {
  /** With the API's root as its path; ends with "/". Undefined: the registry itself. */
  readonly baseUrl: URL | undefined;
  readonly capabilities: Capabilities;
  /** Absolute paths. */
  readonly caFiles: readonly string[];
  readonly clientCertificates: readonly ClientCertificate[];
  /** Undefined when the file does not say. */
  readonly skipVerify: boolean | undefined;
  /** Names in lower case; they may be secret. */
  readonly headers: Readonly<Record<string, string>>;
  readonly connectTimeoutMs: number | undefined;
  /** Secret: it may hold a password. */
  readonly proxy: URL | undefined;
}

export interface HostsFile {
  /** In the order of the file. */
  readonly hosts: readonly HostEntry[];
  readonly server: HostEntry;
  /** What is ignored and why, each naming its key. */
  readonly notes: readonly string[];
}

const HOSTS_MAX = 64;
const FILES_MAX = 64;
const HEADERS_MAX = 64;
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/;
const HEADER_VALUE = /^[\t\x20-\x7e\x80-\xff]{0,8192}$/;
/** Ours to say, or HTTP's own. */
const RESERVED_HEADERS = new Set([
  "accept",
  "accept-encoding",
  "connection",
  "content-length",
  "host",
  "keep-alive",
  "proxy-authorization",
  "range",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

const path = z.string().min(1);
const pair = z.tuple([path, z.string()]);
const entryFields = {
  capabilities: z.array(z.string()).optional(),
  ca: z.union([path, z.array(path).max(FILES_MAX)], "a path or a list of paths").optional(),
  client: z
    .union(
      [path, z.array(z.union([path, pair])).max(FILES_MAX)],
      "a path, a list of paths, or a list of pairs of paths",
    )
    .optional(),
  skip_verify: z.boolean().optional(),
  header: z
    .record(z.string(), z.union([z.string(), z.array(z.string())], "a text or a list of texts"))
    .optional(),
  override_path: z.boolean().optional(),
  dial_timeout: z.string().optional(),
  proxy: z.string().optional(),
};
const entryTable = z.object(entryFields);
const fileTable = z.object({
  ...entryFields,
  server: z.string().optional(),
  host: z.record(z.string(), entryTable).optional(),
});
type EntryTable = z.infer<typeof entryTable>;

/** `file` is its absolute path: it names it in faults, and paths in it start from its folder. */
export function parseHostsFile(text: string, file: string): HostsFile {
  const reading = new Reading(file);
  const table = reading.table(text);
  const found = fileTable.safeParse(table);
  if (!found.success) {
    const [issue] = found.error.issues;
    throw reading.wrong((issue?.path ?? []).map(String), issue?.message ?? "it is wrong");
  }
  const hosts = Object.entries(found.data.host ?? {});
  if (hosts.length > HOSTS_MAX) throw reading.wrong(["host"], `more than ${HOSTS_MAX} hosts`);
  reading.noteUnknown(table, ["server", "host"], []);
  return {
    hosts: hosts.map(([url, entry]) => reading.entry(url, entry, ["host", url])),
    server: reading.entry(found.data.server ?? "", found.data, []),
    notes: reading.notes,
  };
}

/** One file being read: where its paths start, and what there is to say about it. */
class Reading {
  readonly notes: string[] = [];
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  table(text: string): Record<string, unknown> {
    try {
      return parse(text);
    } catch (error) {
      if (!(error instanceof TomlError)) throw error;
      const [reason] = error.message.split("\n");
      throw this.wrong([`line ${error.line}, column ${error.column}`], reason ?? "not TOML");
    }
  }

  wrong(key: readonly string[], detail: string): DaemonError {
    const where = this.#file;
    return new DaemonError({
      code: "config_invalid",
      where,
      detail: `${formatKey(key)}: ${detail}`,
    });
  }

  noteUnknown(table: unknown, known: readonly string[], at: readonly string[]): void {
    if (!isTable(table)) return;
    for (const [key, value] of Object.entries(table)) {
      if (at.length === 0 && key === "host" && isTable(value)) {
        for (const [url, entry] of Object.entries(value)) this.noteUnknown(entry, [], [key, url]);
      } else if (!Object.hasOwn(entryFields, key) && !known.includes(key)) {
        this.notes.push(`${formatKey([...at, key])}: not known, ignored`);
      }
    }
  }

  entry(url: string, table: EntryTable, at: readonly string[]): HostEntry {
    const under = (key: string): readonly string[] => [...at, key];
    const urlKey = at.length === 0 ? ["server"] : at;
    const baseUrl = url === "" && at.length === 0 ? undefined : this.#baseUrl(url, table, urlKey);
    return {
      baseUrl,
      capabilities: this.#capabilities(table.capabilities ?? [], under("capabilities")),
      caFiles: [table.ca ?? []].flat().map((each) => this.#absolute(each)),
      clientCertificates: this.#clientCertificates(table.client),
      skipVerify: table.skip_verify,
      headers: this.#headers(table.header ?? {}, under("header")),
      connectTimeoutMs: this.#timeout(table.dial_timeout ?? "", under("dial_timeout")),
      proxy: this.#proxy(table.proxy ?? "", under("proxy")),
    };
  }

  /** The API's root is `/v2` behind the path that is given, unless the path is the root itself. */
  #baseUrl(text: string, { override_path }: EntryTable, key: readonly string[]): URL {
    const whole = text.includes("://") ? text : `https://${text}`;
    const url = URL.canParse(whole) ? new URL(whole) : undefined;
    if (url === undefined || !/^https?:$/.test(url.protocol) || url.hostname === "") {
      throw this.wrong(key, "not a URL: write https://host[:port][/path]");
    }
    if (url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "") {
      throw this.wrong(key, "a URL without user, query and fragment");
    }
    const root = url.pathname.replace(/\/+/g, "/").replace(/\/$/, "");
    url.pathname = override_path === true || root.endsWith("/v2") ? `${root}/` : `${root}/v2/`;
    return url;
  }

  #capabilities(names: readonly string[], key: readonly string[]): Capabilities {
    const known = new Set(names.map((name) => name.toLowerCase()));
    const unknown = [...known].find((name) => !["pull", "resolve", "push"].includes(name));
    if (unknown !== undefined) {
      throw this.wrong(key, `"${unknown.slice(0, 40)}" is none of pull, resolve, push`);
    }
    const all = known.size === 0;
    return { pull: all || known.has("pull"), resolve: all || known.has("resolve") };
  }

  #clientCertificates(client: EntryTable["client"]): readonly ClientCertificate[] {
    const list = client === undefined ? [] : typeof client === "string" ? [client] : client;
    return list.map((each) => {
      const [certFile, keyFile] = typeof each === "string" ? [each, ""] : each;
      return {
        certFile: this.#absolute(certFile),
        keyFile: keyFile === "" ? undefined : this.#absolute(keyFile),
      };
    });
  }

  #headers(
    given: Readonly<Record<string, string | readonly string[]>>,
    key: readonly string[],
  ): Readonly<Record<string, string>> {
    const headers = new Map<string, string>();
    for (const [name, values] of Object.entries(given)) {
      const at = [...key, name];
      const value = [values].flat().join(", ");
      if (!HEADER_NAME.test(name)) throw this.wrong(at, "not the name of a header");
      if (!HEADER_VALUE.test(value)) throw this.wrong(at, "its value cannot be in a header");
      if (RESERVED_HEADERS.has(name.toLowerCase())) {
        this.notes.push(`${formatKey(at)}: cannot be set, ignored`);
      } else {
        headers.set(name.toLowerCase(), value);
      }
    }
    if (headers.size > HEADERS_MAX) throw this.wrong(key, `more than ${HEADERS_MAX} headers`);
    return Object.fromEntries(headers);
  }

  #timeout(text: string, key: readonly string[]): number | undefined {
    if (text === "") return undefined;
    const durationMs = parseDuration(text);
    if (durationMs === undefined || durationMs <= 0) {
      throw this.wrong(key, 'not a duration: write "5s" or "500ms"');
    }
    return Math.max(1, Math.round(durationMs));
  }

  #proxy(text: string, key: readonly string[]): URL | undefined {
    if (text === "") return undefined;
    const url = URL.canParse(text) ? new URL(text) : undefined;
    if (url === undefined || !/^https?:$/.test(url.protocol)) {
      throw this.wrong(key, "write http://host:port or https://host:port");
    }
    return url;
  }

  #absolute(file: string): string {
    return isAbsolute(file) ? file : join(this.#file, "..", file);
  }
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

/** As it is written in TOML. */
function formatKey(key: readonly string[]): string {
  return key.map((part) => (/^[A-Za-z0-9_-]+$|^line /.test(part) ? part : `"${part}"`)).join(".");
}
