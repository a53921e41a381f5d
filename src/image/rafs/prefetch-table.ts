// SPDX-License-Identifier: Apache-2.0
// The prefetch table of a RAFS v6 bootstrap: nids (places of inodes, not their numbers) of files
// and directories that are read early. A hint: a nid that is nonsense harms nobody.
// Source: nydus 2.4, rafs/src/metadata/layout/v6.rs, RafsV6PrefetchTable.

import { invalid, viewOf } from "./fields.ts";

/** `bytes` is exactly bootstrap.prefetchTable. Fault: image_invalid. */
export function parsePrefetchTable(bytes: Uint8Array, where: string): readonly number[] {
  if (bytes.length % 4 !== 0) throw invalid(where, "its prefetch table is cut");
  const view = viewOf(bytes);
  return Array.from({ length: bytes.length / 4 }, (_, index) => view.getUint32(index * 4, true));
}
