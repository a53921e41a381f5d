// SPDX-License-Identifier: Apache-2.0
// The kernel's tree of mounts, scripted: what a child of the daemon's is told to mount appears in
// it. The mount points that there are, and how mounting fails, a test says.

import { DaemonError } from "../../src/errors.ts";
import type { MountChild } from "../../src/kernel/mount-child.ts";
import type { MountOrder } from "../../src/kernel/mount-orders.ts";
import type { MountEntry } from "../../src/kernel/mountinfo.ts";
import { unfit } from "../../src/kernel/mount-point.ts";

export class FakeMounting {
  readonly entries: MountEntry[] = [];
  readonly orders: MountOrder[] = [];
  readonly directories = new Set(["/mnt/a", "/mnt/b"]);
  /** Called before an order is carried out; may wait, or throw what the kernel says. */
  before: (order: MountOrder) => void | Promise<void> = () => undefined;
  open = 0;

  readonly startChild = (): MountChild => {
    this.open += 1;
    let isOpen = true;
    return {
      carryOut: async (order, _, signal) => {
        if (!isOpen) throw new Error("the child has ended");
        this.orders.push(order);
        await untilAborted(this.before(order), signal);
        return this.#carryOut(order);
      },
      close: () => {
        if (isOpen) this.open -= 1;
        isOpen = false;
      },
    };
  };

  #carryOut(order: MountOrder): string {
    switch (order.kind) {
      case "look":
        if (!this.directories.has(order.path)) throw unfit(order.path, "does not exist");
        if (this.entries.some(({ mountPoint }) => mountPoint === order.path))
          throw unfit(order.path, "is in use: erofs is mounted there");
        return order.path;
      case "mount": {
        const { fsid, domainId } = order.image;
        const superOptions = ["ro", `fsid=${fsid}`, `domain_id=${domainId}`];
        this.#add(order.target ?? "", "none", superOptions);
        return "";
      }
      case "mount-files":
        this.#add(order.target ?? "", order.image.primary, ["ro"]);
        return "file";
      case "bind": {
        const from = this.entries.findLast(({ mountPoint }) => mountPoint === order.source);
        if (from !== undefined) this.entries.push({ ...from, mountPoint: order.target });
        return "";
      }
      case "unmount": {
        const at = this.entries.findLastIndex(({ mountPoint }) => mountPoint === order.target);
        this.entries.splice(at, 1);
        return "";
      }
      default:
        throw new Error(`unreachable: ${JSON.stringify(order satisfies never)}`);
    }
  }

  #add(mountPoint: string, source: string, superOptions: string[]): void {
    this.entries.push({ mountPoint, root: "/", fsType: "erofs", source, superOptions });
  }
}

/** As a system call of the child fails. */
export function syscallFault(errnoName: string): DaemonError {
  const fault = { code: "syscall_failed", syscall: "fsconfig", errno: 1, errnoName } as const;
  return new DaemonError({ ...fault, detail: "" });
}

/** Settles as `work`, or `cancelled` as soon as `signal` aborts. */
async function untilAborted(work: void | Promise<void>, signal?: AbortSignal): Promise<void> {
  let leave: () => void = () => undefined;
  const left = new Promise<never>((_, reject) => {
    leave = () => {
      reject(new DaemonError({ code: "cancelled", what: "an order" }));
    };
  });
  signal?.addEventListener("abort", leave, { once: true });
  if (signal?.aborted === true) leave();
  await Promise.race([work, left]);
}
