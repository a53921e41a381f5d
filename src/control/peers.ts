// SPDX-License-Identifier: Apache-2.0
// Who has connected to the control socket: root and the daemon's own user may use it, whatever the
// socket's mode lets through.

import type { Socket } from "node:net";
import { DaemonError } from "../errors.ts";
import type { Native } from "../platform/native.ts";

export class PeerCheck {
  readonly #native: Pick<Native, "peerUid">;
  readonly #ownUid: number;
  readonly #uids = new WeakMap<Socket, number>();

  constructor(native: Pick<Native, "peerUid">, ownUid: number) {
    this.#native = native;
    this.#ownUid = ownUid;
  }

  /** Faults: peer_refused, syscall_failed. */
  check(socket: Socket): void {
    let uid = this.#uids.get(socket);
    if (uid === undefined) {
      uid = this.#native.peerUid(descriptorOf(socket));
      this.#uids.set(socket, uid);
    }
    if (uid !== 0 && uid !== this.#ownUid) throw new DaemonError({ code: "peer_refused", uid });
  }
}

/** Node has it, and shows it in nothing that is documented; -1 when the socket is closed. */
function descriptorOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, "_handle");
  const fd: unknown = typeof handle === "object" && handle !== null && Reflect.get(handle, "fd");
  return typeof fd === "number" ? fd : -1;
}
