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

// Below the range the kernel gives out by itself (ip_local_port_range starts at 32768): nobody's
// outgoing connection can take a port between our look and its use. Each process has its own
// stretch, since test files run side by side.
const FIRST = 20_000;
const STRETCH = 20;
const STRETCHES = 600;
let next = 0;

/** A port of 127.0.0.1 that nobody listens on, and that no other test is given. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < STRETCH; tries += 1) {
    const port = FIRST + (process.pid % STRETCHES) * STRETCH + (next % STRETCH);
    next += 1;
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => {
        resolve(false);
      });
      server.listen(port, "127.0.0.1", () => {
        resolve(true);
      });
    });
    if (!isFree) continue;
    server.close();
    await once(server, "close");
    return port;
  }
  throw new Error("no free port in this process's stretch");
}
