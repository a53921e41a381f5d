// SPDX-License-Identifier: Apache-2.0
// Keys that name what an image is made of.

import type { Content } from "../state/bindings.ts";
import { type Digest, isDigest } from "../units.ts";

/** Where we choose the key it names the content: the layer, or the manifest when there are devices. */
export function ownKey(content: Content): Digest {
  return content.devices.length === 0 ? content.stream.digest : content.manifestDigest;
}

/** The digest a key stands for: `sha256:<hex>`, or what a device slot's 64 bytes hold of it. */
export function digestOfKey(key: string): string | undefined {
  if (isDigest(key) || /^sha256:[0-9a-f]{57}$/.test(key)) return key;
  const prefixed = `sha256:${key.toLowerCase()}`;
  return isDigest(prefixed) ? prefixed : undefined;
}
