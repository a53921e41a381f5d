// SPDX-License-Identifier: Apache-2.0
// The rooms wired for nydusd's place: what is bound is opened, and nothing else; every volume may
// be asked for, since a snapshotter gives each image its own.

import { dirname, resolve } from "node:path";
import type { Config } from "./config/config.ts";
import { Admission } from "./flow/admission.ts";
import { BoundNames } from "./flow/bound-names.ts";
import { Opener } from "./flow/open-image.ts";
import { Prefetcher } from "./flow/prefetch/prefetcher.ts";
import { streamKey } from "./flow/streams.ts";
import { encodeCommand } from "./kernel/cachefiles/codec.ts";
import { CachefilesSession } from "./kernel/cachefiles/session.ts";
import type { Backend, ImageCounters, RegistryAccess } from "./nydusd/service.ts";
import { systemClock as clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";
import type { Rooms } from "./rooms.ts";
import type { AccessProfile } from "./source/registry/access.ts";
import type { Origin } from "./source/source.ts";
import type { Binding } from "./state/bindings.ts";

export interface ServingParts {
  readonly config: Config;
  readonly native: Native;
  readonly log: Log;
  /** Bound; owned by the session from now on. */
  readonly deviceFd: number;
  /** Another daemon bound it: what that one served may be mounted. */
  readonly adopted: boolean;
  readonly onObjects: (count: number) => void;
}

export type Serving = ReturnType<typeof assemble>;

export function assemble(rooms: Rooms, parts: ServingParts) {
  const { native, log, deviceFd, adopted, config, onObjects } = parts;
  const { engine, bindings, streams } = rooms;
  const seeds = rooms.seedFiles((text) => void native.write(deviceFd, encodeCommand(text)));
  const names = new BoundNames({
    bindings,
    streams,
    seed: (objects) => seeds.seed(objects),
    isOpen: ({ volumeKey, cookieKey }) => engine.isOpen(volumeKey, cookieKey),
    mayBeMounted: () => adopted,
  });
  const opener = new Opener({
    clock,
    log,
    engine,
    openTimeoutMs: config.limits.open_timeout,
    names,
    volumeProblem: () => undefined,
    onFailure: () => undefined,
  });
  const session = new CachefilesSession({ native, clock, log, deviceFd, adopted, onObjects });
  const prefetcher = new Prefetcher({ engine, clock, log, isBusy: () => opener.waitingCount > 0 });
  const handler = new Admission(opener, engine);
  return { ...rooms, deviceFd, names, opener, session, prefetcher, handler };
}

export function countersOf(
  { engine, prefetcher }: Serving,
  image: { fsid: string; volumeKey: string; binding: Binding },
): ImageCounters {
  const { devices } = image.binding;
  const counts = devices.map((device) => engine.countersOf(streamKey(device)));
  const sum = (of: (count: (typeof counts)[number]) => number): number =>
    counts.reduce((total, count) => total + of(count), 0);
  const open = engine.openObjects.filter(({ volumeKey }) => volumeKey === image.volumeKey);
  const cached = devices.map(
    ({ digest }) =>
      open.find(({ cookieKey }) => `sha256:${cookieKey}` === digest)?.cachedBytes ?? 0,
  );
  const totalBytes = devices.reduce((total, { size }) => total + size, 0);
  const cachedBytes = cached.reduce((total, bytes) => total + bytes, 0);
  const idle = { requests: 0, bytes: 0, workers: 0, beganAtMs: undefined, endedAtMs: undefined };
  return {
    blobs: devices.map(({ digest }) => digest),
    reads: sum(({ reads }) => reads),
    readBytes: sum(({ readBytes }) => readBytes),
    failedReads: sum(({ failedReads }) => failedReads),
    fetchedBytes: sum(({ fetchedBytes }) => fetchedBytes),
    cachedBytes,
    totalBytes,
    cachedChunks: sum(({ fetches }) => fetches),
    complete: totalBytes > 0 && cachedBytes >= totalBytes,
    prefetch: prefetcher.counters(image.fsid) ?? idle,
  };
}

/** Where an image's blobs are. */
export function originOf(backend: Backend): Origin {
  switch (backend.kind) {
    case "registry":
      return { kind: "registry", host: backend.host, repository: backend.repository };
    case "directory":
      return { kind: "directory", host: "directory", repository: backend.directory };
    case "file":
      return fileOrigin(resolve(backend.blobFile));
    default:
      return unreachable(backend);
  }
}

function fileOrigin(blobFile: string): Origin {
  return { kind: "directory", host: "directory", repository: dirname(blobFile), blobFile };
}

function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}

export function accessProfile(access: RegistryAccess): AccessProfile {
  const { timeoutMs, ...profile } = access;
  return {
    ...profile,
    headersTimeoutMs: timeoutMs,
    stallTimeoutMs: timeoutMs,
    blobUrlScheme: schemeOf(access.blobUrlScheme),
  };
}

function schemeOf(text: string | undefined): "http" | "https" | undefined {
  return text === "http" || text === "https" ? text : undefined;
}
