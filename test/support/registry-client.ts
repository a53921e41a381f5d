// SPDX-License-Identifier: Apache-2.0
// A registry client pointed at a scripted server: what the tests of its behaviour share.

import type { Fault } from "../../src/errors.ts";
import { type Clock, type Random, systemClock } from "../../src/platform/clock.ts";
import type { AccessBook } from "../../src/source/registry/access.ts";
import type { RegistryOptions, RegistryParts } from "../../src/source/registry/options.ts";
import { createRegistrySource } from "../../src/source/registry/registry-source.ts";
import type { FetchOptions, Origin, SizedBlobLocation, Source } from "../../src/source/source.ts";
import type { Extent } from "../../src/units.ts";
import { faultFrom } from "./faults.ts";
import { digestOf } from "./oci-image.ts";
import {
  type Respond,
  type ScriptedServer,
  type ServerTLS,
  startScriptedServer,
} from "./scripted-server.ts";

/** 100000 bytes that differ from their neighbours. */
export const CONTENT = Uint8Array.from({ length: 100_000 }, (_, at) => (at * 31 + (at >> 8)) & 255);

export interface ClientFixture extends AsyncDisposable {
  readonly source: Source;
  readonly server: ScriptedServer;
  readonly origin: Origin;
  readonly blob: SizedBlobLocation;
  readonly observed: { requests: string[]; bytes: number; failures: string[] };
  readonly logged: string[];
  /** Reads an extent of CONTENT; the bytes that were delivered. */
  read(extent?: Extent, options?: Partial<FetchOptions>): Promise<Uint8Array>;
  /** The fault of such a read, and what was delivered before it. */
  readFault(
    extent?: Extent,
    options?: Partial<FetchOptions>,
  ): Promise<{ fault: Fault; delivered: Uint8Array }>;
  fetchFault(wanted?: string): Promise<Fault>;
}

export interface FixtureOptions {
  readonly clock?: Clock;
  /** Always 0 by default: backoff takes no time. */
  readonly random?: Random;
  readonly options?: Partial<RegistryOptions>;
  /** Host to talk to instead of the scripted server's. */
  readonly host?: string;
  readonly access?: AccessBook;
  readonly credentials?: RegistryParts["credentials"];
  readonly upstreams?: RegistryParts["upstreams"];
  readonly peers?: RegistryParts["peers"];
  /** Beside what is observed for all. */
  readonly observe?: RegistryParts["observe"];
  readonly environment?: RegistryParts["environment"];
  /** The scripted server speaks TLS. */
  readonly tls?: ServerTLS;
}

/** Backoff takes no time: the random number is always 0. */
export async function startClient(
  respond: Respond,
  given: FixtureOptions = {},
): Promise<ClientFixture> {
  const { clock = systemClock, options = {}, host, access, upstreams, peers, tls } = given;
  const server = await startScriptedServer(respond, tls);
  const observed: ClientFixture["observed"] = { requests: [], bytes: 0, failures: [] };
  const logged: string[] = [];
  const source = createRegistrySource({
    clock,
    random: given.random ?? (() => 0),
    // Only who tests hedges wants requests that nobody asked for.
    options: { hedgePercent: 0, ...options },
    ...(access === undefined ? {} : { access }),
    ...(given.credentials === undefined ? {} : { credentials: given.credentials }),
    ...(upstreams === undefined ? {} : { upstreams }),
    peers,
    ...(given.environment === undefined ? {} : { environment: given.environment }),
    observe: {
      ...given.observe,
      request: (at) => observed.requests.push(at),
      bytes: (_, count) => {
        observed.bytes += count;
      },
      failure: (_, code) => observed.failures.push(code),
    },
    log: {
      debug: (fields, message) => logged.push(JSON.stringify(fields) + message),
      warn: (fields, message) => logged.push(JSON.stringify(fields) + message),
    },
  });
  const origin: Origin = { kind: "registry", host: host ?? server.host, repository: "team/app" };
  const blob = { origin, digest: digestOf(CONTENT), size: CONTENT.length };
  const optionsOf = (fields: Partial<FetchOptions> = {}): FetchOptions => ({
    signal: new AbortController().signal,
    deadlineMs: clock.nowMs() + 20_000,
    ...fields,
  });
  const readInto = (pieces: Uint8Array[], extent?: Extent, fields?: Partial<FetchOptions>) =>
    source.readRange(
      blob,
      extent ?? { offset: 0, length: blob.size },
      (piece) => pieces.push(Uint8Array.from(piece)),
      optionsOf(fields),
    );
  return {
    source,
    server,
    origin,
    blob,
    observed,
    logged,
    async read(extent, fields) {
      const pieces: Uint8Array[] = [];
      await readInto(pieces, extent, fields);
      return Uint8Array.from(Buffer.concat(pieces));
    },
    async readFault(extent, fields) {
      const pieces: Uint8Array[] = [];
      const fault = await faultFrom(readInto(pieces, extent, fields));
      return { fault, delivered: Uint8Array.from(Buffer.concat(pieces)) };
    },
    fetchFault: (wanted = "v1") => faultFrom(source.fetchManifest(origin, wanted, optionsOf())),
    async [Symbol.asyncDispose]() {
      await source.close();
      await server.close();
    },
  };
}
