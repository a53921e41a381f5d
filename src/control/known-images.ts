// SPDX-License-Identifier: Apache-2.0
// What the daemon knows of its images, put together when somebody asks: what is bound, what the
// kernel has open, and what is cached on disk of the rest.

import { join } from "node:path";
import { allocatedBytes, cachedOnDisk } from "../cache/usage.ts";
import { DaemonError } from "../errors.ts";
import type { Engine, OpenObjectFacts } from "../flow/engine.ts";
import { streamKey } from "../flow/streams.ts";
import { domainIdOf } from "../kernel/cachefiles/keys.ts";
import { cacheFileName, streamsDirectory } from "../kernel/fanotify/names.ts";
import { formatOrigin } from "../source/source.ts";
import type { Binding, Bindings, CookieName, StreamRecord } from "../state/bindings.ts";
import { isDigest } from "../units.ts";
import type { ImageDetail, ImageSummary } from "./image-schema.ts";
import type { PastFailure } from "./schema.ts";

/** Files that the disk is asked for at once. */
const STATS_MAX = 16;
/** What the kernel keeps of a device's tag: `sha256:` and 57 digits. */
const TAG_LENGTH = 64;

export interface KnownImagesParts {
  readonly bindings: Pick<Bindings, "all">;
  readonly engine: Pick<Engine, "openObjects" | "countersOf">;
  readonly cacheDir: string;
  readonly lastFailure: (cookieKey: string) => PastFailure;
}

export type Known = CookieName & { readonly binding: Binding };
type StreamDetail = ImageDetail["streams"][number];
/** What is cached, in bytes, by volume and cookie key. */
interface Cached {
  readonly open: ReadonlyMap<string, OpenObjectFacts>;
  /** Of what is not open. */
  readonly onDisk: ReadonlyMap<string, number>;
}

export class KnownImages {
  readonly #parts: KnownImagesParts;

  constructor(parts: KnownImagesParts) {
    this.#parts = parts;
  }

  /** Images that can be mounted, the newest last. */
  async list(): Promise<ImageSummary[]> {
    const bound = [...this.#parts.bindings.all()].filter(({ binding }) => binding.unbound !== true);
    const cached = await this.#cachedOf(bound);
    return bound.map((known) => summaryOf(known, this.#streamsOf(known, cached)));
  }

  /** Of each of these images, in their order, what is on this machine, in bytes. */
  async cachedBytesOf(images: readonly Known[]): Promise<number[]> {
    const cached = await this.#cachedOf(images);
    return images.map((known) => summaryOf(known, this.#streamsOf(known, cached)).cachedBytes);
  }

  /** Fault: image_unknown. Where several fit, an fsid counts before a reference, and the newest. */
  find(name: string): Known {
    const all = [...this.#parts.bindings.all()];
    const known =
      all.findLast(({ cookieKey }) => cookieKey === name) ??
      all.findLast(({ binding }) => binding.reference === name) ??
      all.findLast(({ binding }) => binding.manifestDigest === name);
    if (known === undefined) throw new DaemonError({ code: "image_unknown", name });
    return known;
  }

  /** As `find`. */
  async inspect(name: string): Promise<ImageDetail> {
    const known = this.find(name);
    const streams = this.#streamsOf(known, await this.#cachedOf([known]));
    const past = this.#parts.lastFailure(known.cookieKey);
    return {
      ...summaryOf(known, streams),
      unbound: known.binding.unbound === true,
      streams,
      ...(past === undefined ? {} : { lastFailure: failureAt(past) }),
    };
  }

  // The disk is asked for what is not open, and all of it before anything is put together: with
  // hundreds of mounts an answer must not cost hundreds of turns of the event loop.
  async #cachedOf(images: readonly Known[]): Promise<Cached> {
    const { engine, cacheDir } = this.#parts;
    const open = new Map(engine.openObjects.map((each) => [idOf(each), each]));
    const onDisk = new Map<string, number>();
    const names = new Map(images.flatMap(filesOf).map((file) => [idOf(file), file]));
    const closed = [...names].filter(([id]) => !open.has(id));
    for (let at = 0; at < closed.length; at += STATS_MAX) {
      const some = closed.slice(at, at + STATS_MAX);
      const bytes = await Promise.all(some.map(([, file]) => bytesOf(cacheDir, file)));
      for (const [index, [id]] of some.entries()) onDisk.set(id, bytes[index] ?? 0);
    }
    return { open, onDisk };
  }

  #streamsOf(known: Known, cached: Cached): StreamDetail[] {
    const { volumeKey, cookieKey, binding } = known;
    const primary = this.#streamOf(binding.stream, "bootstrap", [{ volumeKey, cookieKey }], cached);
    const devices = binding.devices.map((device) =>
      this.#streamOf(device, "device", deviceNames(volumeKey, device), cached),
    );
    return [primary, ...devices];
  }

  #streamOf(
    record: StreamRecord,
    role: StreamDetail["role"],
    names: readonly CookieName[],
    { open, onDisk }: Cached,
  ): StreamDetail {
    const ids = names.map(idOf);
    const object = ids.map((id) => open.get(id)).find((one) => one !== undefined);
    const cached = object?.cachedBytes ?? Math.max(...ids.map((id) => onDisk.get(id) ?? 0));
    const counters = this.#parts.engine.countersOf(streamKey(record));
    const { reads, readBytes, failedReads, fetchedBytes } = counters;
    return {
      digest: record.digest,
      role,
      origin: formatOrigin(record.origin),
      sizeBytes: record.size,
      // Whole blocks are cached, and a file's metadata takes blocks too.
      cachedBytes: Math.min(cached, record.size),
      open: object !== undefined,
      reads,
      readBytes,
      failedReads,
      fetchedBytes,
    };
  }
}

function summaryOf(known: Known, streams: readonly StreamDetail[]): ImageSummary {
  const { volumeKey, cookieKey, binding } = known;
  const domainId = domainIdOf(volumeKey);
  return {
    fsid: cookieKey,
    ...(domainId === undefined ? {} : { domainId }),
    reference: binding.reference,
    manifestDigest: binding.manifestDigest,
    format: binding.stream.format === undefined ? "erofs" : "rafs",
    sizeBytes: streams.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    cachedBytes: streams.reduce((sum, { cachedBytes }) => sum + cachedBytes, 0),
    open: streams[0]?.open === true,
    deviceCount: binding.devices.length,
  };
}

/** Every name that one of its streams may be opened by. */
export function namesOf({ volumeKey, cookieKey, binding }: Known): CookieName[] {
  const devices = binding.devices.flatMap((device) => deviceNames(volumeKey, device));
  return [{ volumeKey, cookieKey }, ...devices];
}

interface KeyFile extends CookieName {
  /** What its key is accepted with, by which its file is named too, where it is one of ours. */
  readonly sizeBytes: number;
}

function filesOf(known: Known): KeyFile[] {
  const { volumeKey, cookieKey, binding } = known;
  const { stream, devices, copenSize = stream.size } = binding;
  const sizeBytes = isDigest(cookieKey) ? stream.size : copenSize;
  const others = devices.flatMap((device) =>
    deviceNames(volumeKey, device).map((name) => ({ ...name, sizeBytes: device.size })),
  );
  return [{ volumeKey, cookieKey, sizeBytes }, ...others];
}

/** In the kernel's cache, or in a file that is mounted itself. */
async function bytesOf(cacheDir: string, file: KeyFile): Promise<number> {
  const path = join(streamsDirectory(cacheDir), cacheFileName(file, file.sizeBytes));
  return Math.max(await cachedOnDisk(cacheDir, file), await allocatedBytes(path));
}

/** By what keys a device is opened: a digest whole or as a tag holds it, or its digits alone. */
function deviceNames(volumeKey: string, { digest }: StreamRecord): CookieName[] {
  const keys = [digest, digest.slice(0, TAG_LENGTH), digest.slice(digest.indexOf(":") + 1)];
  return keys.map((cookieKey) => ({ volumeKey, cookieKey }));
}

function idOf({ volumeKey, cookieKey }: CookieName): string {
  return `${volumeKey}\0${cookieKey}`;
}

function failureAt({ atMs, ...failure }: NonNullable<PastFailure>): ImageDetail["lastFailure"] {
  return { ...failure, at: new Date(atMs).toISOString() };
}
