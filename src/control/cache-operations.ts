// SPDX-License-Identifier: Apache-2.0
// What is cached is given up: what somebody names, or all of an image with what is known of it.
// Never what is mounted, and never what is being prefetched.

import { type CachedFiles, prune } from "../cache/prune.ts";
import { DaemonError } from "../errors.ts";
import type { NameResolver } from "../flow/name-resolver.ts";
import type { Prefetches } from "../flow/prefetch/prefetches.ts";
import type { Bindings, CookieName } from "../state/bindings.ts";
import type { ControlOperations } from "./control-operations.ts";
import { type Known, type KnownImages, namesOf } from "./known-images.ts";

export interface CacheOperationsParts {
  readonly cached: CachedFiles;
  readonly images: Pick<KnownImages, "find">;
  readonly bindings: Pick<Bindings, "all">;
  readonly names: Pick<NameResolver, "forget">;
  readonly prefetches: Pick<Prefetches, "isBusyWith">;
  readonly isOpen: (name: CookieName) => boolean;
  /** Mount points of an image. */
  readonly mountsOf: (name: CookieName) => Promise<readonly string[]>;
  readonly unixMs: () => number;
}

export type CacheOperations = Pick<ControlOperations, "pruneCache" | "removeImage">;

export function cacheOperations(parts: CacheOperationsParts): CacheOperations {
  const { cached, images, unixMs } = parts;
  return {
    async pruneCache({ image, olderThanSeconds, leaveBytes }) {
      const names = image === undefined ? undefined : ownNames(parts, images.find(image));
      const usedBeforeMs =
        olderThanSeconds === undefined ? undefined : unixMs() - olderThanSeconds * 1000;
      return prune(cached, { names, usedBeforeMs, leaveBytes });
    },
    async removeImage(name) {
      const known = images.find(name);
      await checkUnused(parts, name, known);
      const { files, bytes, inUse } = await prune(cached, { names: ownNames(parts, known) });
      if (inUse > 0) {
        const detail = "some of its files are open, maybe in another mount namespace";
        throw new DaemonError({ code: "image_in_use", name, detail });
      }
      await parts.names.forget(known);
      const { cookieKey: fsid, binding } = known;
      const { reference, manifestDigest } = binding;
      return { fsid, reference, manifestDigest, files, bytes };
    },
  };
}

async function checkUnused(
  { mountsOf, prefetches, isOpen }: CacheOperationsParts,
  name: string,
  known: Known,
): Promise<void> {
  const mounts = await mountsOf(known);
  const inUse = (detail: string): DaemonError =>
    new DaemonError({ code: "image_in_use", name, detail });
  if (mounts.length > 0) throw inUse(`mounted at ${mounts.join(", ")}`);
  if (prefetches.isBusyWith(known)) throw inUse("it is being prefetched");
  if (isOpen(known)) throw inUse("its files are open, maybe mounted in another mount namespace");
}

/** What no other image that can be mounted has too. */
function ownNames({ bindings }: CacheOperationsParts, known: Known): CookieName[] {
  const others = [...bindings.all()].filter(({ volumeKey, cookieKey, binding }) => {
    const isIt = volumeKey === known.volumeKey && cookieKey === known.cookieKey;
    return !isIt && binding.unbound !== true;
  });
  const shared = new Set(
    others.flatMap(({ binding }) =>
      [binding.stream, ...binding.devices].map(({ digest }) => digest),
    ),
  );
  const devices = known.binding.devices.filter(({ digest }) => !shared.has(digest));
  return namesOf({ ...known, binding: { ...known.binding, devices } });
}
