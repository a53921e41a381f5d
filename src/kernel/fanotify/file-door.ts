// SPDX-License-Identifier: Apache-2.0
// A door of files: the kernel mounts them as they are, and does not ask for an image when it is
// mounted. So whoever mounts one opens and fills its files first (file-mounts.ts).

import type { Extent } from "../../units.ts";
import type { FileObject } from "./file-object.ts";
import type { KeyName } from "./names.ts";
import type { OpenedFile } from "./open-entry.ts";

export interface FileDoor {
  /** Each opening is to be released. Faults: what the handler refuses with, cache_*, stopping. */
  open(key: KeyName): Promise<OpenedFile>;
  /** Resolves when all of `extent` (within the object) is in its file. Rejects as a read would fail. */
  fill(object: FileObject, extent: Extent): Promise<void>;
  covers(object: FileObject, extent: Extent): boolean;
  /** What the file holds of `extent`; bytes that were not filled are zeros. */
  readBack(object: FileObject, extent: Extent): Promise<Uint8Array>;
  /** What `object` holds is wrong: it is trusted no more, and deleted when nobody uses it. */
  distrust(object: FileObject): Promise<void>;
}
