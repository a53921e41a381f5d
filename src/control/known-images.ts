// SPDX-License-Identifier: Apache-2.0
// What the daemon knows of its images, put together when somebody asks: what is bound, what the
// kernel has open, and what is cached on disk of the rest.

import { cachedOnDisk } from "../cache/usage.ts";
import { DaemonError } from "../errors.ts";
import type { Engine, OpenObjectFacts } from "../flow/engine.ts";
import { streamKey } from "../flow/streams.ts";
import { formatOrigin } from "../source/source.ts";
import type { Binding, Bindings, CookieName, StreamRecord } from "../state/bindings.ts";
import type { ImageDetail, ImageSummary } from "./image-schema.ts";
import type { PastFailure } from "./schema.ts";

const DOMAIN_PREFIX = "erofs,";
/** What the kernel keeps of a device's tag: `sha256:` and 57 digits. */
const TAG_LENGTH = 64;

export interface KnownImagesParts {
  readonly bindings: Pick<Bindings, "all">;
  readonly engine: Pick<Engine, "openObjects" | "countersOf">;
  readonly cacheDir: string;
  readonly lastFailure: (cookieKey: string) => PastFailure;
}

type Known = CookieName & { readonly binding: Binding };
type StreamDetail = ImageDetail["streams"][number];
/** By volume and cookie key. */
type OpenObjects = ReadonlyMap<string, OpenObjectFacts>;

export class KnownImages {
  readonly #parts: KnownImagesParts;

  constructor(parts: KnownImagesParts) {
    this.#parts = parts;
  }

  /** Images that can be mounted, the newest last. */
  async list(): Promise<ImageSummary[]> {
    const open = this.#openObjects();
    const images: ImageSummary[] = [];
    for (const known of this.#parts.bindings.all()) {
      if (known.binding.unbound === true) continue;
      images.push(summaryOf(known, await this.#streamsOf(known, open)));
    }
    return images;
  }

  /** Fault: image_unknown. Where several fit, an fsid counts before a reference, and the newest. */
  async inspect(name: string): Promise<ImageDetail> {
    const all = [...this.#parts.bindings.all()];
    const known =
      all.findLast(({ cookieKey }) => cookieKey === name) ??
      all.findLast(({ binding }) => binding.reference === name) ??
      all.findLast(({ binding }) => binding.manifestDigest === name);
    if (known === undefined) throw new DaemonError({ code: "image_unknown", name });
    const streams = await this.#streamsOf(known, this.#openObjects());
    const past = this.#parts.lastFailure(known.cookieKey);
    return {
      ...summaryOf(known, streams),
      unbound: known.binding.unbound === true,
      streams,
      ...(past === undefined ? {} : { lastFailure: failureAt(past) }),
    };
  }

  #openObjects(): OpenObjects {
    const { openObjects } = this.#parts.engine;
    return new Map(openObjects.map((each) => [idOf(each), each]));
  }

  async #streamsOf(known: Known, open: OpenObjects): Promise<StreamDetail[]> {
    const { volumeKey, cookieKey, binding } = known;
    const primary = await this.#streamOf(binding.stream, "bootstrap", {
      open,
      volumeKey,
      keys: [cookieKey],
    });
    const devices: StreamDetail[] = [];
    for (const device of binding.devices) {
      const keys = deviceKeys(device.digest);
      devices.push(await this.#streamOf(device, "device", { open, volumeKey, keys }));
    }
    return [primary, ...devices];
  }

  async #streamOf(
    record: StreamRecord,
    role: StreamDetail["role"],
    at: { open: OpenObjects; volumeKey: string; keys: readonly string[] },
  ): Promise<StreamDetail> {
    const { volumeKey } = at;
    const names = at.keys.map((cookieKey) => ({ volumeKey, cookieKey }));
    const object = names.map((name) => at.open.get(idOf(name))).find((one) => one !== undefined);
    let cached = object?.cachedBytes ?? 0;
    if (object === undefined) {
      for (const name of names) {
        cached = Math.max(cached, await cachedOnDisk(this.#parts.cacheDir, name));
      }
    }
    const { reads, readBytes, failedReads, fetchedBytes } = this.#parts.engine.countersOf(
      streamKey(record),
    );
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
  const isDomain = volumeKey.startsWith(DOMAIN_PREFIX);
  return {
    fsid: cookieKey,
    ...(isDomain ? { domainId: volumeKey.slice(DOMAIN_PREFIX.length) } : {}),
    reference: binding.reference,
    manifestDigest: binding.manifestDigest,
    format: binding.stream.format === undefined ? "erofs" : "rafs",
    sizeBytes: streams.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    cachedBytes: streams.reduce((sum, { cachedBytes }) => sum + cachedBytes, 0),
    open: streams[0]?.open === true,
    deviceCount: binding.devices.length,
  };
}

/** By what keys a device is opened: a digest whole or as a tag holds it, or its digits alone. */
function deviceKeys(digest: string): string[] {
  return [digest, digest.slice(0, TAG_LENGTH), digest.slice(digest.indexOf(":") + 1)];
}

function idOf({ volumeKey, cookieKey }: CookieName): string {
  return `${volumeKey}\0${cookieKey}`;
}

function failureAt({ atMs, ...failure }: NonNullable<PastFailure>): ImageDetail["lastFailure"] {
  return { ...failure, at: new Date(atMs).toISOString() };
}
