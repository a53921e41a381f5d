// SPDX-License-Identifier: Apache-2.0
// One Source for whatever keeps an image: each call goes to the source of its origin's kind.

import type { Origin, Source } from "./source.ts";

/** `close` closes all of them. */
export function createSources(byKind: Readonly<Record<Origin["kind"], Source>>): Source {
  return {
    fetchManifest: (origin, wanted, options) =>
      byKind[origin.kind].fetchManifest(origin, wanted, options),
    readRange: (blob, extent, onPiece, options) =>
      byKind[blob.origin.kind].readRange(blob, extent, onPiece, options),
    async close() {
      await Promise.all(Object.values(byKind).map((source) => source.close()));
    },
  };
}
