// SPDX-License-Identifier: Apache-2.0
// Unix sockets that only their owner may use.

import { chmodSync } from "node:fs";
import { type Server, connect } from "node:net";

/** Listens at `path`, mode 0600 from the first moment. Rejects with the system's error. */
export async function listenPrivately(server: Server, path: string): Promise<void> {
  const umask = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, resolve);
    });
  } finally {
    process.umask(umask);
  }
  chmodSync(path, 0o600);
}

/** Takes the connections of a socket that somebody else bound. Rejects with the system's error. */
export async function listenAt(server: Server, fd: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ fd }, resolve);
  });
}

/** True when something listens at `path`, also when it is too busy to answer. */
export function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      resolve(error.code !== "ENOENT" && error.code !== "ECONNREFUSED");
    });
  });
}
