// SPDX-License-Identifier: Apache-2.0
// A certificate for 127.0.0.1 from an authority nobody knows, made with openssl.

import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
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
