// SPDX-License-Identifier: Apache-2.0
// From what a hosts.toml says to the upstreams of a registry, as containerd understands it. Pure.

import type { HostEntry } from "./hosts-file.ts";
import { type Upstream, isDockerHub } from "./upstream.ts";

/** A file's entries, or those that stand for a folder of certificates. */
export interface HostEntries {
  readonly hosts: readonly HostEntry[];
  readonly server: HostEntry;
}

/** Mirrors as they are listed, then the registry; `host` as in references, `plain` its default. */
export function planUpstreams(
  host: string,
  plain: Upstream,
  { hosts, server }: HostEntries,
): readonly Upstream[] {
  const mirrors = hosts.flatMap((entry) => withTLSFirst(entry, upstreamOf(host, plain, entry)));
  const last = { ...upstreamOf(host, plain, server), isMirror: false };
  return [...mirrors, ...withTLSFirst(server, last)];
}

function upstreamOf(host: string, plain: Upstream, entry: HostEntry): Upstream {
  const baseUrl = entry.baseUrl ?? plain.baseUrl;
  const name = baseUrl.host;
  const isSame = name === host || (isDockerHub(host) && isDockerHub(name));
  return {
    name,
    baseUrl,
    // A registry that is not named may do all.
    capabilities: entry.baseUrl === undefined ? plain.capabilities : entry.capabilities,
    isMirror: true,
    // A password for the registry is none of a mirror's business.
    accessHost: isSame ? host : name,
    namespace: isSame ? undefined : host,
    headers: entry.headers,
    tls: {
      caFiles: entry.caFiles,
      clientCertificates: entry.clientCertificates,
      skipVerify: entry.skipVerify ?? false,
      version: 0,
    },
    connectTimeoutMs: entry.connectTimeoutMs,
    proxy: entry.proxy,
  };
}

/**
 * Certificates for a plain-http host: containerd tries TLS there first, and goes on without. Not at
 * port 80, where there is no doubt.
 */
function withTLSFirst(entry: HostEntry, upstream: Upstream): readonly Upstream[] {
  const isTold =
    entry.caFiles.length > 0 ||
    entry.clientCertificates.length > 0 ||
    entry.skipVerify !== undefined;
  const { baseUrl } = upstream;
  if (!isTold || baseUrl.protocol !== "http:" || baseUrl.port === "") return [upstream];
  const secure = new URL(baseUrl);
  secure.protocol = "https:";
  return [{ ...upstream, baseUrl: secure }, upstream];
}
