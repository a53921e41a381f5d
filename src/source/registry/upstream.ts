// SPDX-License-Identifier: Apache-2.0
// An upstream: one place to get an image's bytes from, be it the registry that its reference
// names or a mirror of it. What is asked of an upstream is asked in its terms: its base URL, its
// certificates, its headers, its token. Bytes of any upstream are as untrusted as those of another.

export interface ClientCertificate {
  readonly certFile: string;
  /** Undefined: the certificate's file has the key too. */
  readonly keyFile: string | undefined;
}

/** Paths of PEM files. Authorities count also where the upstream redirects to, as for containerd. */
export interface UpstreamTLS {
  /** Trusted beside the system's. */
  readonly caFiles: readonly string[];
  /** Shown to the upstream alone. */
  readonly clientCertificates: readonly ClientCertificate[];
  readonly skipVerify: boolean;
  /** Another one when the files have changed: connections are of the files they were made with. */
  readonly version: number;
}

export interface Capabilities {
  /** Blobs, and manifests by digest: what can be verified. */
  readonly pull: boolean;
  /** From a tag to a digest: nothing but trust says that it is right. */
  readonly resolve: boolean;
}

export interface Upstream {
  /** `host[:port]`, for logs, faults and counters. Upstreams of one name share their health. */
  readonly name: string;
  /** Ends with "/"; the repository comes behind it. Usually `https://host/v2/`. */
  readonly baseUrl: URL;
  readonly capabilities: Capabilities;
  /** False for the last one, the registry itself: what it says about an image counts. */
  readonly isMirror: boolean;
  /** Whose credentials are for it: the host they are looked up by. */
  readonly accessHost: string;
  /** Sent as `ns=`: what the mirror is to mirror. */
  readonly namespace: string | undefined;
  /** Sent to the upstream alone; they may be secret. */
  readonly headers: Readonly<Record<string, string>>;
  readonly tls: UpstreamTLS;
  /** Undefined: as for all. */
  readonly connectTimeoutMs: number | undefined;
  /** Everything for this upstream goes through it. Secret: it may hold a password. */
  readonly proxy: URL | undefined;
}

export const PLAIN_TLS: UpstreamTLS = {
  caFiles: [],
  clientCertificates: [],
  skipVerify: false,
  version: 0,
};

/** The name people use and the host that serves it. */
const DOCKER_HUB = "docker.io";
const DOCKER_HUB_HOST = "registry-1.docker.io";

/** The registry that a reference's host names, with nothing configured. */
export function registryUpstream(host: string, scheme: "http" | "https"): Upstream {
  const name = host === DOCKER_HUB ? DOCKER_HUB_HOST : host;
  return {
    name,
    baseUrl: new URL(`${scheme}://${name}/v2/`),
    capabilities: { pull: true, resolve: true },
    isMirror: false,
    accessHost: host,
    namespace: undefined,
    headers: {},
    tls: PLAIN_TLS,
    connectTimeoutMs: undefined,
    proxy: undefined,
  };
}

export function isDockerHub(host: string): boolean {
  return host === DOCKER_HUB || host === DOCKER_HUB_HOST;
}

/** Where `path` (`blobs/sha256:...`) of a repository is at an upstream. */
export function upstreamUrl(upstream: Upstream, repository: string, path: string): URL {
  const url = new URL(`${upstream.baseUrl.href}${repository}/${path}`);
  if (upstream.namespace !== undefined) url.searchParams.set("ns", upstream.namespace);
  return url;
}
