// SPDX-License-Identifier: Apache-2.0
// Certificates for 127.0.0.1 and for a client, from an authority nobody knows, made with openssl.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ServerTLS } from "./scripted-server.ts";
import { tempDir } from "./temp-dir.ts";

async function openssl(...args: readonly string[]): Promise<void> {
  await promisify(execFile)("openssl", args);
}

/** `caFile` is the authority's own certificate, gone when the test has ended. */
export async function certify(): Promise<ServerTLS & { readonly caFile: string }> {
  const folder = await tempDir();
  const at = (name: string): string => join(folder, name);
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  const ca = ["-keyout", at("ca.key"), "-out", at("ca.pem"), "-subj", "/CN=tests"];
  await openssl("req", "-x509", ...curve, ...ca, "-days", "2");
  const request = ["-keyout", at("key.pem"), "-out", at("cert.pem"), "-subj", "/CN=127.0.0.1"];
  const signed = ["-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-days", "2"];
  const name = ["-addext", "subjectAltName=IP:127.0.0.1"];
  await openssl("req", "-x509", ...curve, ...request, ...signed, ...name);
  const [key, cert] = await Promise.all(
    ["key.pem", "cert.pem"].map((file) => readFile(at(file), "utf8")),
  );
  return { key: key ?? "", cert: cert ?? "", caFile: at("ca.pem") };
}

/** All of it as files, for servers and clients that are processes. */
export interface CertifiedFiles {
  readonly folder: string;
  readonly ca: string;
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCert: string;
  readonly clientKey: string;
  /** The client's certificate and its key in one file. */
  readonly clientBoth: string;
}

/** The caller removes `folder`. */
export async function certifyWithClient(): Promise<CertifiedFiles> {
  const folder = await mkdtemp(join(tmpdir(), "erofsd-certified-"));
  const at = (name: string): string => join(folder, name);
  await makeAuthority(at);
  await makeSigned(at, "server", ["-addext", "subjectAltName=IP:127.0.0.1"]);
  await makeSigned(at, "client", []);
  const texts = await Promise.all(
    ["client.pem", "client.key", "ca.pem"].map((name) => readFile(at(name), "utf8")),
  );
  await writeFile(at("both.pem"), texts.slice(0, 2).join("\n"));
  return {
    folder,
    ca: texts[2] ?? "",
    caFile: at("ca.pem"),
    certFile: at("server.pem"),
    keyFile: at("server.key"),
    clientCert: at("client.pem"),
    clientKey: at("client.key"),
    clientBoth: at("both.pem"),
  };
}

const CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];

async function makeAuthority(at: (name: string) => string): Promise<void> {
  const ca = ["-keyout", at("ca.key"), "-out", at("ca.pem"), "-subj", "/CN=tests"];
  await openssl("req", "-x509", ...CURVE, ...ca);
}

async function makeSigned(
  at: (name: string) => string,
  name: string,
  extensions: readonly string[],
): Promise<void> {
  const made = ["-keyout", at(`${name}.key`), "-out", at(`${name}.pem`), "-subj", `/CN=${name}`];
  const signed = ["-CA", at("ca.pem"), "-CAkey", at("ca.key")];
  // A certificate of openssl's `req -x509` calls itself an authority unless told otherwise.
  const leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
  await openssl("req", "-x509", ...CURVE, ...made, ...signed, ...leaf, ...extensions);
}
