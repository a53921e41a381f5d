// SPDX-License-Identifier: Apache-2.0
// One Source for whatever keeps an image: each call goes to the source of its origin's kind.
// A source is made at its first use: loading an HTTP client takes longer than all else at start.

import type { Origin, Source } from "./source.ts";

export interface LazySources extends Source {
  /** Makes the sources that are not made yet; resolves when all are ready. */
  warmUp(): Promise<void>;
}

/** `close` closes those that were made. */
export function createSources(
  makers: Readonly<Record<Origin["kind"], () => Promise<Source>>>,
): LazySources {
  const made = new Map<Origin["kind"], Promise<Source>>();
  const ready = new Map<Origin["kind"], Source>();
  const make = async (kind: Origin["kind"]): Promise<Source> => {
    const source = await makers[kind]();
    ready.set(kind, source);
    return source;
  };
  const sourceOf = (kind: Origin["kind"]): Promise<Source> => {
    const source = made.get(kind) ?? make(kind);
    made.set(kind, source);
    return source;
  };
  return {
    async fetchManifest(origin, wanted, options) {
      const source = await sourceOf(origin.kind);
      return source.fetchManifest(origin, wanted, options);
    },
    async readRange(blob, extent, onPiece, options) {
      const source = await sourceOf(blob.origin.kind);
      return source.readRange(blob, extent, onPiece, options);
    },
    async blobSize(blob, options) {
      const source = await sourceOf(blob.origin.kind);
      return source.blobSize(blob, options);
    },
    async fetchReferrers(origin, of, options) {
      const source = await sourceOf(origin.kind);
      return source.fetchReferrers?.(origin, of, options);
    },
    rangeHint: (origin) => ready.get(origin.kind)?.rangeHint?.(origin),
    async warmUp() {
      await Promise.all([sourceOf("registry"), sourceOf("layout"), sourceOf("directory")]);
    },
    async close() {
      // What could not be made is known by whoever asked for it.
      for (const source of made.values()) await (await source.catch(() => undefined))?.close();
    },
  };
}
