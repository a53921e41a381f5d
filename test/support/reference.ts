// SPDX-License-Identifier: Apache-2.0
// A reference that has a manifest: of a registry or a layout.

import { type Reference, parseReference } from "../../src/image/oci/reference.ts";

export function manifestReference(text: string): Reference {
  const reference = parseReference(text);
  if (reference.kind === "bootstrap") throw new Error(`${text} has no manifest`);
  return reference;
}
