// SPDX-License-Identifier: Apache-2.0
// Mounts as the control socket tells of them.

import type { KnownImage } from "../mounts/mount-list.ts";
import type { MadeMount, Mounts } from "../mounts/mounts.ts";
import type { ControlOperations } from "./control-operations.ts";
import type { ImageSummary } from "./image-schema.ts";
import type { MadeMountAnswer, MountFacts } from "./mount-schema.ts";
import { whileWaited } from "./while-waited.ts";

export function mountOperations(
  mounts: Pick<Mounts, "create" | "list" | "pending" | "remove">,
  images: () => Promise<readonly ImageSummary[]>,
): Pick<ControlOperations, "mount" | "mounts" | "unmount"> {
  return {
    async mount({ reference, mountPoint, door = "auto", fill }, signal) {
      const making = mounts.create({ reference, mountPoint, door, fill });
      return answerOf(await whileWaited(making, signal));
    },
    async mounts() {
      const there = await mounts.list();
      const known = there.length === 0 ? [] : await images();
      const cached = new Map(known.map((image) => [idOf(image), image.cachedBytes]));
      const mounted = there.map((one): MountFacts => {
        const { mountPoint, door, fsid, domainId, image } = one;
        const named = { ...(fsid === undefined ? {} : { fsid }), ...domain(domainId) };
        return {
          mountPoint,
          state: "mounted",
          door,
          ...(image === undefined ? named : factsOf(image, cached)),
        };
      });
      const soon = mounts.pending.map(({ wish, door, image, progress }): MountFacts => {
        const { mountPoint, reference } = wish;
        return {
          mountPoint,
          state: "preparing",
          reference,
          ...(door === undefined ? {} : { door }),
          ...(image === undefined ? {} : factsOf(image, cached)),
          ...(progress === undefined ? {} : { progress }),
        };
      });
      return [...mounted, ...soon];
    },
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

function factsOf(image: KnownImage, cached: ReadonlyMap<string, number>) {
  const { cookieKey: fsid, volumeKey, binding } = image;
  const { reference, manifestDigest, devices } = binding;
  const [, domainId] = /^erofs,(.*)$/s.exec(volumeKey) ?? [];
  const cachedBytes = cached.get(`${domainId ?? ""}\0${fsid}`);
  return {
    reference,
    manifestDigest,
    fsid,
    ...domain(domainId),
    deviceCount: devices.length,
    sizeBytes: sizeOf(image),
    ...(cachedBytes === undefined ? {} : { cachedBytes }),
  };
}

function domain(domainId: string | undefined) {
  return domainId === undefined ? {} : { domainId };
}

function idOf({ domainId = "", fsid }: ImageSummary): string {
  return `${domainId}\0${fsid}`;
}

function sizeOf({ binding }: KnownImage): number {
  return [binding.stream, ...binding.devices].reduce((sum, { size }) => sum + size, 0);
}
