// SPDX-License-Identifier: Apache-2.0
// The cache files that the devices of an image will be opened by.

import type { Seed } from "../cache/seed-files.ts";
import type { Binding, CookieName } from "../state/bindings.ts";
import { isDigest } from "../units.ts";

/** The devices of an image, by the names that its mount opens them with. */
export function deviceSeeds({ volumeKey, cookieKey }: CookieName, binding: Binding): Seed[] {
  const { devices, inspected } = binding;
  return devices.map(({ digest, format, size }, index) => {
    const ownName = format === "rafs" ? digest.slice("sha256:".length) : digest;
    // Under a key of ours the mount names raw devices; a bare mount takes the slots' tags.
    const tag = isDigest(cookieKey) || format === "rafs" ? "" : inspected?.tags?.[index];
    const name = tag === undefined || tag === "" ? ownName : tag;
    return { volumeKey, cookieKey: name, sizeBytes: size };
  });
}
