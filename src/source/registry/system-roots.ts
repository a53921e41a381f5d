// SPDX-License-Identifier: Apache-2.0
// The certificate authorities this machine's administrator trusts, beside those Node brings along.
// SSL_CERT_FILE and SSL_CERT_DIR count as they do for OpenSSL and Go. Read once, asynchronously,
// when the first TLS connection is made; never at start-up.

import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { rootCertificates } from "node:tls";

/** Debian, Fedora and RHEL, openSUSE, OpenELEC, RHEL 7 and later, Alpine. */
const BUNDLES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/pki/tls/cacert.pem",
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  "/etc/ssl/cert.pem",
];
const DIRECTORIES = ["/etc/ssl/certs", "/etc/pki/tls/certs"];
const DIRECTORY_FILES_MAX = 2_000;
const CERTIFICATES_MAX = 4_000;
const PEM =
  /-----BEGIN (?:TRUSTED )?CERTIFICATE-----[\s\S]*?-----END (?:TRUSTED )?CERTIFICATE-----/g;

export type Environment = Readonly<Record<string, string | undefined>>;

/** PEM texts that Node does not bring along itself. Never rejects: what cannot be read is not there. */
export async function readSystemRoots(
  environment: Environment,
  bundles: readonly string[] = BUNDLES,
  directories: readonly string[] = DIRECTORIES,
): Promise<readonly string[]> {
  const { SSL_CERT_FILE: file = "", SSL_CERT_DIR: folders = "" } = environment;
  let texts: string[] = [];
  for (const path of file === "" ? bundles : [file]) {
    const text = await readText(path);
    if (text === undefined) continue;
    texts = [text];
    break;
  }
  if (folders !== "" || texts.length === 0) {
    const places = folders === "" ? directories : folders.split(":").filter((each) => each !== "");
    for (const place of places) texts.push(...(await readFolder(place)));
  }
  const known = new Set(rootCertificates.map(bodyOf));
  const found = new Map<string, string>();
  for (const [pem] of texts.flatMap((text) => [...text.matchAll(PEM)])) {
    const body = bodyOf(pem);
    if (!known.has(body) && found.size < CERTIFICATES_MAX) found.set(body, pem);
  }
  return [...found.values()];
}

async function readFolder(folder: string): Promise<readonly string[]> {
  const names = await readdir(folder).catch((): string[] => []);
  const texts: string[] = [];
  for (const name of names.sort().slice(0, DIRECTORY_FILES_MAX)) {
    const text = await readText(join(folder, name));
    if (text !== undefined) texts.push(text);
  }
  return texts;
}

async function readText(path: string): Promise<string | undefined> {
  return await readFile(path, "latin1").catch(() => undefined);
}

/** What a certificate is, however its lines are broken. */
function bodyOf(pem: string): string {
  return pem.replace(/-----[A-Z ]+-----|\s/g, "");
}
