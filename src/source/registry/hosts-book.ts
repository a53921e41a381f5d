// SPDX-License-Identifier: Apache-2.0
// The folder of hosts' folders (containerd's certs.d), looked into when a host is first used and
// again, in the background, while it is: an edit counts after some seconds, without a restart.
// A broken hosts.toml is told once; its host is then reached as if the file were not there.

import { readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { LRUCache } from "lru-cache";
import { asDaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import { ignoreBecause } from "../ignore.ts";
import { type HostEntries, planUpstreams } from "./host-upstreams.ts";
import { type HostEntry, parseHostsFile } from "./hosts-file.ts";
import type { RegistryLog } from "./options.ts";
import { PLAIN_TLS, type Upstream } from "./upstream.ts";

const HOSTS_MAX = 1024;
const FILE_BYTES_MAX = 1024 * 1024;
const DIRECTORY_ENTRIES_MAX = 1000;
/** An answer this old is checked in the background; one much older is not given any more. */
const CHECK_AFTER_MS = 5_000;
const TRUST_MS = 60_000;

export interface HostsBookParts {
  /** Its absence is fine. */
  readonly directory: string;
  readonly clock: Clock;
  readonly log: RegistryLog | undefined;
}

interface Known {
  /** Undefined: nothing is configured. */
  readonly entries: HostEntries | undefined;
  readonly version: number;
  /** What the answer was made of: paths, and when each was changed. */
  readonly seen: string;
  checkedMs: number;
  checking: Promise<Known> | undefined;
  /** The last answer: most requests are for the same. */
  planned: { readonly plainHref: string; readonly upstreams: readonly Upstream[] } | undefined;
}

export class HostsBook {
  readonly #parts: HostsBookParts;
  readonly #known = new LRUCache<string, Known>({ max: HOSTS_MAX });
  readonly #firstLooks = new Map<string, Promise<Known>>();
  #versions = 0;

  constructor(parts: HostsBookParts) {
    this.#parts = parts;
  }

  /** Where to get what `host` has; `plain` is that registry with nothing configured. Never rejects. */
  async upstreams(host: string, plain: Upstream): Promise<readonly Upstream[]> {
    const known = await this.#lookUp(host);
    const { entries, version, planned } = known;
    if (entries === undefined) return [plain];
    if (planned?.plainHref === plain.baseUrl.href) return planned.upstreams;
    const upstreams = planUpstreams(host, plain, entries).map((upstream) => ({
      ...upstream,
      tls: { ...upstream.tls, version },
    }));
    known.planned = { plainHref: plain.baseUrl.href, upstreams };
    return upstreams;
  }

  async #lookUp(host: string): Promise<Known> {
    const known = this.#known.get(host);
    if (known === undefined) {
      const looking = this.#firstLooks.get(host) ?? this.#look(host, undefined);
      this.#firstLooks.set(host, looking);
      try {
        return await looking;
      } finally {
        this.#firstLooks.delete(host);
      }
    }
    const ageMs = this.#parts.clock.nowMs() - known.checkedMs;
    if (ageMs < CHECK_AFTER_MS) return known;
    known.checking ??= this.#look(host, known);
    if (ageMs >= TRUST_MS) return await known.checking;
    ignoreBecause("it never rejects", known.checking);
    return known;
  }

  /** Never rejects. */
  async #look(host: string, before: Known | undefined): Promise<Known> {
    const found = await findEntries(this.#parts.directory, host);
    const checkedMs = this.#parts.clock.nowMs();
    if (before !== undefined && before.seen === found.seen) {
      before.checkedMs = checkedMs;
      before.checking = undefined;
      return before;
    }
    for (const warning of found.warnings) this.#parts.log?.warn({ host }, warning);
    this.#versions += 1;
    const { entries, seen } = found;
    const version = this.#versions;
    const fresh = { checkedMs, checking: undefined, planned: undefined };
    const now: Known = { entries, seen, version, ...fresh };
    this.#known.set(host, now);
    return now;
  }
}

interface Found {
  readonly entries: HostEntries | undefined;
  readonly seen: string;
  readonly warnings: readonly string[];
}

/** The names a host's folder may have, best first. */
export function hostFolders(host: string): readonly string[] {
  const withPort = /^(.+):([0-9]+)$/.exec(host);
  const escaped = withPort === null ? [] : [`${withPort[1]}_${withPort[2]}_`];
  return [...escaped, host, "_default"];
}

/** Never rejects: what cannot be read is a warning. */
async function findEntries(directory: string, host: string): Promise<Found> {
  for (const name of hostFolders(host)) {
    const folder = join(directory, name);
    const status = await statusOf(folder);
    if (status === undefined) continue;
    if (!status.isDirectory) continue;
    return await readFolder(folder);
  }
  return { entries: undefined, seen: "", warnings: [] };
}

async function readFolder(folder: string): Promise<Found> {
  const file = join(folder, "hosts.toml");
  const warnings: string[] = [];
  let entries: HostEntries | undefined;
  const status = await statusOf(file);
  if (status !== undefined && status.size > 0) {
    try {
      if (status.size > FILE_BYTES_MAX) throw new Error(`${file}: more than 1 MiB`);
      const parsed = parseHostsFile(await readFile(file, "utf8"), file);
      warnings.push(...parsed.notes.map((note) => `${file}: ${note}`));
      entries = parsed;
    } catch (error) {
      const { message } = asDaemonError(error);
      warnings.push(`${message}; this host is reached as if the file were not there`);
    }
  }
  entries ??= await readCertificateFiles(folder).catch((error: unknown) => {
    warnings.push(`${folder}: ${asDaemonError(error).message}; ignored`);
    return undefined;
  });
  const files = [file, ...(entries === undefined ? [] : filesOf(entries))];
  const statuses = await Promise.all(files.map(statusOf));
  for (const [index, each] of files.entries()) {
    if (index > 0 && statuses[index] === undefined) warnings.push(`${each}: cannot be read`);
  }
  return { entries, seen: JSON.stringify([files, statuses, status]), warnings };
}

/** As docker has them: `*.crt` are authorities, `*.cert` and `*.key` what the client shows. */
async function readCertificateFiles(folder: string): Promise<HostEntries | undefined> {
  const names = (await readdir(folder)).slice(0, DIRECTORY_ENTRIES_MAX).sort();
  const caFiles = names.filter((name) => name.endsWith(".crt")).map((name) => join(folder, name));
  const clientCertificates = names
    .filter((name) => name.endsWith(".cert"))
    .map((name) => {
      const key = name.replace(/\.cert$/, ".key");
      const keyFile = names.includes(key) ? join(folder, key) : undefined;
      return { certFile: join(folder, name), keyFile };
    });
  if (caFiles.length === 0 && clientCertificates.length === 0) return undefined;
  return { hosts: [], server: { ...PLAIN_ENTRY, caFiles, clientCertificates } };
}

const PLAIN_ENTRY: HostEntry = {
  baseUrl: undefined,
  capabilities: { pull: true, resolve: true },
  caFiles: PLAIN_TLS.caFiles,
  clientCertificates: PLAIN_TLS.clientCertificates,
  skipVerify: undefined,
  headers: {},
  connectTimeoutMs: undefined,
  proxy: undefined,
};

function filesOf({ hosts, server }: HostEntries): readonly string[] {
  return [...hosts, server].flatMap(({ caFiles, clientCertificates }) => [
    ...caFiles,
    ...clientCertificates.flatMap(({ certFile, keyFile }) => [certFile, keyFile ?? []].flat()),
  ]);
}

interface Status {
  readonly isDirectory: boolean;
  readonly size: number;
  readonly changedMs: number;
  readonly inode: number;
}

/** Undefined when there is nothing, or nothing that may be looked at. */
async function statusOf(path: string): Promise<Status | undefined> {
  try {
    const found = await stat(path);
    const { size, ctimeMs, ino } = found;
    return { isDirectory: found.isDirectory(), size, changedMs: ctimeMs, inode: ino };
  } catch {
    return undefined;
  }
}
