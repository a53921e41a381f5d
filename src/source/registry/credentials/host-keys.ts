// SPDX-License-Identifier: Apache-2.0
// What credentials are kept under: a host as docker writes it (`https://index.docker.io/v1/`,
// `registry.example:5000`), or a host with the beginning of a repository's path
// (`quay.io/team`, as podman and skopeo have it). Pure.

export interface HostKey {
  /** Canonical: lower case, one name for Docker Hub. */
  readonly host: string;
  /** The repositories it is for: this one and those below it; empty for all. */
  readonly path: string;
}

const HUB = "docker.io";
const HUB_NAMES = new Set([HUB, "index.docker.io", "registry-1.docker.io"]);
/** How docker names its Hub to credential programs. */
const HUB_SERVER = "https://index.docker.io/v1/";
const HOST = /^(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?$/;
const PATH = /^[a-z0-9][a-z0-9._/-]*$/;
const LENGTH_MAX = 1024;

/** As in a URL, which has no port where it is that of https. */
export function canonicalHost(host: string): string {
  const name = host.toLowerCase().replace(/:443$/, "");
  return HUB_NAMES.has(name) ? HUB : name;
}

/** Undefined when it names no host. */
export function parseHostKey(text: string): HostKey | undefined {
  if (text.length > LENGTH_MAX) return undefined;
  const rest = text.replace(/^https?:\/\//i, "");
  const slash = rest.indexOf("/");
  const written = slash === -1 ? rest : rest.slice(0, slash);
  // As it is written: of two ports the canonical form has lost one.
  if (!HOST.test(written.toLowerCase())) return undefined;
  const host = canonicalHost(written);
  const path = slash === -1 ? "" : trimSlashes(rest.slice(slash));
  // With a scheme it is a URL of the registry's API, whose path says nothing.
  if (path === "" || rest !== text || /^v[12](?:\/|$)/.test(path)) return { host, path: "" };
  return PATH.test(path) ? { host, path } : undefined;
}

/** For a host, or a repository at it and those below; the name of the field that is wrong. */
export function keyOf(place: {
  readonly host: string;
  readonly repository?: string | undefined;
}): HostKey | "host" | "repository" {
  const key = parseHostKey(place.host);
  if (key === undefined) return "host";
  if (place.repository === undefined) return key;
  const path = trimSlashes(place.repository);
  return path.length <= LENGTH_MAX && PATH.test(path) ? { host: key.host, path } : "repository";
}

/** The entry for a repository: of those of its host, the one with the longest path. */
export function bestMatch<T extends HostKey>(
  entries: Iterable<T>,
  wanted: { readonly host: string; readonly repository: string },
): T | undefined {
  let best: T | undefined;
  for (const entry of entries) {
    if (entry.host !== wanted.host || !covers(entry.path, wanted.repository)) continue;
    if (best === undefined || entry.path.length > best.path.length) best = entry;
  }
  return best;
}

/** What a credential program is asked for. */
export function serverName(host: string): string {
  return host === HUB ? HUB_SERVER : host;
}

function covers(path: string, repository: string): boolean {
  return path === "" || repository === path || repository.startsWith(`${path}/`);
}

/** Two loops: a regular expression for this takes quadratic time on "a////...a". */
function trimSlashes(text: string): string {
  let [begin, end] = [0, text.length];
  while (begin < end && text[begin] === "/") begin += 1;
  while (end > begin && text[end - 1] === "/") end -= 1;
  return text.slice(begin, end);
}
