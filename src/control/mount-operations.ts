// SPDX-License-Identifier: Apache-2.0
// Mounts as the control socket tells of them.

import type { MadeMount, Mounts } from "../mounts/mounts.ts";
import type { ControlOperations } from "./control-operations.ts";
import { MountListing, type MountListingParts, sizeOf } from "./mount-listing.ts";
import type { MadeMountAnswer } from "./mount-schema.ts";
import { whileWaited } from "./while-waited.ts";

export function mountOperations(
  parts: MountListingParts & { readonly mounts: Pick<Mounts, "create" | "giveUp" | "remove"> },
): Pick<ControlOperations, "mount" | "mounts" | "unmount"> {
  const { mounts } = parts;
  const listing = new MountListing(parts);
  return {
    async mount({ reference, mountPoint, door = "auto", fill, cancelWithClient }, signal) {
      const making = mounts.create({ reference, mountPoint, door, fill });
      try {
        return answerOf(await whileWaited(making, signal));
      } finally {
        if (signal.aborted && cancelWithClient === true) mounts.giveUp(mountPoint);
      }
    },
    mounts: () => listing.answer(),
    unmount: (mountPoint, { lazy }) => mounts.remove(mountPoint, { lazy }),
  };
}

function answerOf({ mountPoint, door, image, sharedWith }: MadeMount): MadeMountAnswer {
  const { reference, manifestDigest, devices } = image.binding;
  return {
    mountPoint,
    door,
    reference,
    manifestDigest,
    fsid: image.cookieKey,
    deviceCount: devices.length,
    sizeBytes: sizeOf(image),
    ...(sharedWith === undefined ? {} : { sharedWith }),
  };
}
