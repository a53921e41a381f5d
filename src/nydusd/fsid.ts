// SPDX-License-Identifier: Apache-2.0
// The name under which the snapshotter mounts a snapshot: a hash of the snapshot's id. Some of its
// requests name the snapshot instead.

import { createHash } from "node:crypto";

export function fsidOf(snapshotId: string): string {
  return createHash("sha256").update(`nydus-snapshot-${snapshotId}`).digest("hex");
}
