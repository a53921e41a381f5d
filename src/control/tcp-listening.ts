// SPDX-License-Identifier: Apache-2.0
// Listening at a loopback address that the configuration names.

import type { Server } from "node:http";
import { type ListenAddress, formatAddress } from "../config/listen-address.ts";
import { DaemonError } from "../errors.ts";
import { errnoName } from "./socket-place.ts";

/** Where it listens: of port 0, the one that it got. Fault: config_invalid, which names `where`. */
export function listenAtAddress(
  server: Server,
  address: ListenAddress,
  where: string,
): Promise<ListenAddress> {
  const { host, port } = address;
  return new Promise((resolve, reject) => {
    server.once("error", (error) => {
      const detail = `${formatAddress(address)} cannot be listened at: ${errnoName(error)}`;
      reject(new DaemonError({ code: "config_invalid", where, detail }));
    });
    server.listen({ host, port }, () => {
      const bound = server.address();
      const got = typeof bound === "object" && bound !== null ? bound.port : port;
      resolve({ host, port: got });
    });
  });
}
