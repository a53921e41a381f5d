// SPDX-License-Identifier: Apache-2.0
// Loopback TCP ports for tests: the one a server listens on, and one that is free now.

import { once } from "node:events";
import { type Server, createServer } from "node:net";

/** Throws when the server does not listen on TCP. */
export function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("it has no TCP port");
  return address.port;
}

/** A port of 127.0.0.1 nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const port = portOf(server);
  server.close();
  await once(server, "close");
  return port;
}
