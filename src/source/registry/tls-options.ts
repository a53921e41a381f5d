// SPDX-License-Identifier: Apache-2.0
// From paths of PEM files to what a TLS connection needs: authorities beside those everybody
// trusts, and the certificates a client shows.

import { readFile } from "node:fs/promises";
import { rootCertificates } from "node:tls";
import type { ClientCertificate, UpstreamTLS } from "./upstream.ts";

export type TLSNeeds = UpstreamTLS;

export interface TLSOptions {
  readonly rejectUnauthorized: boolean;
  readonly ca?: string[];
  readonly cert?: string[];
  readonly key?: string[];
}

/** `tlsCa` is PEM text, trusted too. Rejects with the system's error, which names the file. */
export async function loadTLS(needs: TLSNeeds, tlsCa: string | undefined): Promise<TLSOptions> {
  const given = await Promise.all(needs.caFiles.map((path) => readFile(path, "utf8")));
  const extra = tlsCa === undefined ? given : [tlsCa, ...given];
  const pairs = await Promise.all(needs.clientCertificates.map(loadPair));
  return {
    rejectUnauthorized: !needs.skipVerify,
    ...(extra.length === 0 ? {} : { ca: [...rootCertificates, ...extra] }),
    ...(pairs.length === 0
      ? {}
      : { cert: pairs.map(({ cert }) => cert), key: pairs.map(({ key }) => key) }),
  };
}

async function loadPair({
  certFile,
  keyFile,
}: ClientCertificate): Promise<{ cert: string; key: string }> {
  const cert = await readFile(certFile, "utf8");
  return { cert, key: keyFile === undefined ? cert : await readFile(keyFile, "utf8") };
}
