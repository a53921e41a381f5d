// SPDX-License-Identifier: Apache-2.0
// A child of the daemon's that mounts and unmounts for it: each of these calls may block its
// process until the daemon has answered the kernel. It takes orders from its parent, one at a time,
// and ends with it.

import { asDaemonError } from "../errors.ts";
import { bindMount, mountFiles, mountOrTry, unmount } from "../kernel/mount.ts";
import { type MountOrder, type MountReply, mountOrder } from "../kernel/mount-orders.ts";
import { checkMountPoint } from "../kernel/mount-point.ts";

process.on("disconnect", () => {
  process.exit();
});
process.on("message", (message) => {
  void obey(message).then((reply) => process.send?.(reply));
});

async function obey(message: unknown): Promise<MountReply> {
  try {
    return { done: await carryOut(mountOrder.parse(message)) };
  } catch (error) {
    return { fault: asDaemonError(error).fault };
  }
}

async function carryOut(order: MountOrder): Promise<string> {
  switch (order.kind) {
    case "look":
      return checkMountPoint(order.path);
    case "mount":
      mountOrTry(order.image, order.target);
      return "";
    case "mount-files":
      if (order.mayLoop) return mountFiles(order.image, order.target);
      mountOrTry(order.image, order.target);
      return "file";
    case "bind":
      bindMount(order.source, order.target);
      return "";
    case "unmount":
      unmount(order.target, { lazy: order.lazy });
      return "";
    default:
      throw new Error(`unreachable: ${JSON.stringify(order satisfies never)}`);
  }
}
