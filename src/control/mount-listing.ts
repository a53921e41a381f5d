// SPDX-License-Identifier: Apache-2.0
// GET /v1/mounts, as text that is kept while it is right: hundreds of mounts may be asked for
// hundreds of times a second. A mount that came, went or is another shows in the next answer,
// whoever made it; only how much of each is cached may be some moments old.

import { domainIdOf } from "../kernel/cachefiles/keys.ts";
import type { Clock } from "../platform/clock.ts";
import type { KnownImage, OurMount } from "../mounts/mount-list.ts";
import type { Mounts } from "../mounts/mounts.ts";
import type { KnownImages } from "./known-images.ts";
import { type MountFacts, mountsAnswer } from "./mount-schema.ts";
import { type TextAnswer, jsonAnswer } from "./route.ts";

/** How old numbers of bytes get. */
const BYTES_KEPT_MS = 100;
/** So many times as long as it took to put an answer together, it is kept at least. */
const REST_FACTOR = 20;

export interface MountListingParts {
  readonly clock: Clock;
  readonly mounts: Pick<Mounts, "list" | "pending" | "revision">;
  readonly images: Pick<KnownImages, "cachedBytesOf">;
}

interface Kept {
  readonly mounted: readonly OurMount[];
  readonly revision: number;
  readonly answer: Promise<TextAnswer>;
  untilMs: number;
}

export class MountListing {
  readonly #parts: MountListingParts;
  #kept: Kept | undefined;

  constructor(parts: MountListingParts) {
    this.#parts = parts;
  }

  /** Whoever asks while it is put together shares it. */
  async answer(): Promise<TextAnswer> {
    const { clock, mounts } = this.#parts;
    const mounted = await mounts.list();
    const { revision } = mounts;
    const startMs = clock.nowMs();
    const last = this.#kept;
    const isSame = last?.mounted === mounted && last.revision === revision;
    if (isSame && startMs < last.untilMs) return last.answer;
    const answer = this.#put(mounted, !isSame);
    const kept: Kept = { mounted, revision, answer, untilMs: Number.POSITIVE_INFINITY };
    this.#kept = kept;
    try {
      return await answer;
    } finally {
      // Also after a failure, so that it costs no more.
      const nowMs = clock.nowMs();
      kept.untilMs = nowMs + Math.max(BYTES_KEPT_MS, REST_FACTOR * (nowMs - startMs));
    }
  }

  /** Other numbers of the same mounts need no checking again. */
  async #put(mounted: readonly OurMount[], isNew: boolean): Promise<TextAnswer> {
    const { mounts, images } = this.#parts;
    const pending = [...mounts.pending];
    const known = [...mounted, ...pending].flatMap(({ image }) => image ?? []);
    const unique = [...new Map(known.map((image) => [idOf(image), image])).values()];
    const bytes = await images.cachedBytesOf(unique);
    const cached = new Map(unique.map((image, index) => [idOf(image), bytes[index]]));
    const there = mounted.map(({ mountPoint, door, fsid, domainId, image }): MountFacts => {
      const named = { ...(fsid === undefined ? {} : { fsid }), ...domain(domainId) };
      const facts = image === undefined ? named : factsOf(image, cached);
      return { mountPoint, state: "mounted", door, ...facts };
    });
    const soon = pending.map(({ wish, door, image, progress }): MountFacts => {
      const { mountPoint, reference } = wish;
      return {
        mountPoint,
        state: "preparing",
        reference,
        ...(door === undefined ? {} : { door }),
        ...(image === undefined ? {} : factsOf(image, cached)),
        ...(progress === undefined ? {} : { progress }),
      };
    });
    const all = { mounts: [...there, ...soon] };
    const { contentType, text } = jsonAnswer(isNew ? mountsAnswer.parse(all) : all);
    return { contentType, text: Buffer.from(text) };
  }
}

function factsOf(image: KnownImage, cached: ReadonlyMap<string, number | undefined>) {
  const { cookieKey: fsid, volumeKey, binding } = image;
  const { reference, manifestDigest, devices } = binding;
  const cachedBytes = cached.get(idOf(image));
  return {
    reference,
    manifestDigest,
    fsid,
    ...domain(domainIdOf(volumeKey)),
    deviceCount: devices.length,
    sizeBytes: sizeOf(image),
    ...(cachedBytes === undefined ? {} : { cachedBytes }),
  };
}

/** Of all its streams, in bytes. */
export function sizeOf({ binding }: KnownImage): number {
  return [binding.stream, ...binding.devices].reduce((sum, { size }) => sum + size, 0);
}

function domain(domainId: string | undefined) {
  return domainId === undefined ? {} : { domainId };
}

function idOf({ volumeKey, cookieKey }: KnownImage): string {
  return `${volumeKey}\0${cookieKey}`;
}
