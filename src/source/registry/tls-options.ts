// SPDX-License-Identifier: Apache-2.0
// From paths of PEM files to what TLS connections need: authorities beside those everybody trusts,
// and the certificates a client shows. What was made of the files is kept, for making it parses
// some hundred certificates.

import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { type SecureContext, createSecureContext, rootCertificates } from "node:tls";
import { LRUCache } from "lru-cache";
import type { ClientCertificate, UpstreamTLS } from "./upstream.ts";

export type TLSNeeds = UpstreamTLS;

export interface TLSOptions {
  readonly rejectUnauthorized: boolean;
  /** Undefined: what Node has by itself will do. */
  readonly secureContext?: SecureContext;
}

export interface TLSLoaderParts {
  /** PEM text, trusted beside the system's. */
  readonly tlsCa: string | undefined;
  /** PEM texts; called once. */
  readonly systemRoots: () => Promise<readonly string[]>;
}

const CONTEXTS_MAX = 64;

export class TLSLoader {
  readonly #parts: TLSLoaderParts;
  readonly #contexts = new LRUCache<string, SecureContext>({ max: CONTEXTS_MAX });
  #roots: Promise<readonly string[]> | undefined;

  constructor(parts: TLSLoaderParts) {
    this.#parts = parts;
  }

  /** Rejects with an error that names the file which cannot be read or used. */
  async load(needs: TLSNeeds): Promise<TLSOptions> {
    const rejectUnauthorized = !needs.skipVerify;
    const roots = await this.#systemRoots();
    const { caFiles, clientCertificates } = needs;
    const { tlsCa } = this.#parts;
    const isPlain = caFiles.length === 0 && clientCertificates.length === 0;
    if (isPlain && tlsCa === undefined && roots.length === 0) return { rejectUnauthorized };
    const key = JSON.stringify([caFiles, clientCertificates, needs.version]);
    const known = this.#contexts.get(key);
    if (known !== undefined) return { rejectUnauthorized, secureContext: known };
    const given = await Promise.all(caFiles.map(readCertificates));
    const pairs = await Promise.all(clientCertificates.map(loadPair));
    const extra = [...given.flat(), ...(tlsCa === undefined ? [] : [tlsCa])];
    const secureContext = makeContext([...rootCertificates, ...roots, ...extra], pairs);
    // A profile's files have no version: they are read anew for each new pool.
    if (needs.version !== 0 || isPlain) this.#contexts.set(key, secureContext);
    return { rejectUnauthorized, secureContext };
  }

  #systemRoots(): Promise<readonly string[]> {
    this.#roots ??= this.#parts.systemRoots().then((roots) => roots.filter(isCertificate));
    return this.#roots;
  }
}

interface Pair {
  readonly cert: string;
  readonly key: string;
}

function makeContext(ca: string[], pairs: readonly Pair[]): SecureContext {
  if (pairs.length === 0) return createSecureContext({ ca });
  return createSecureContext({
    ca,
    cert: pairs.map(({ cert }) => cert),
    key: pairs.map(({ key }) => key),
  });
}

async function loadPair({ certFile, keyFile }: ClientCertificate): Promise<Pair> {
  const cert = await readFile(certFile, "utf8");
  return { cert, key: keyFile === undefined ? cert : await readFile(keyFile, "utf8") };
}

/** One broken file must say its name: OpenSSL would not. */
async function readCertificates(path: string): Promise<string> {
  const text = await readFile(path, "utf8");
  if (!isCertificate(text)) throw new Error(`${path}: no certificate in it`);
  return text;
}

/** Of a text with several, the first. */
function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0;
  } catch {
    return false;
  }
}
