// SPDX-License-Identifier: Apache-2.0
// A TCP relay in front of a server that breaks a connection once, after so many bytes of answers,
// and lets the test do something before the next connection is taken.

import { once } from "node:events";
import { type Socket, connect, createServer } from "node:net";
import { portOf } from "./port.ts";

export interface CuttingRelay {
  readonly host: string;
  /** Breaks the connection that brings the `bytes`-th byte from now on, then runs `between`. */
  cutAfter(bytes: number, between: () => Promise<void>): void;
  readonly cuts: number;
  close(): Promise<void>;
}

export async function startCuttingRelay(target: () => string): Promise<CuttingRelay> {
  let leftBytes = Number.POSITIVE_INFINITY;
  let between: () => Promise<void> = () => Promise.resolve();
  let ready: Promise<void> = Promise.resolve();
  let cuts = 0;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    client.on("error", () => undefined);
    void ready.then(() => join(client));
  });
  function join(client: Socket): void {
    const [host = "", port = ""] = target().split(":");
    const upstream = connect(Number(port), host);
    for (const socket of [client, upstream]) sockets.add(socket);
    const end = (): void => {
      for (const socket of [client, upstream]) {
        socket.destroy();
        sockets.delete(socket);
      }
    };
    for (const socket of [client, upstream]) socket.on("error", end).on("close", end);
    client.pipe(upstream);
    upstream.on("data", (piece: Buffer) => {
      if (piece.length < leftBytes) {
        leftBytes -= piece.length;
        client.write(piece);
        return;
      }
      const last = piece.subarray(0, leftBytes);
      leftBytes = Number.POSITIVE_INFINITY;
      cuts += 1;
      ready = between();
      client.write(last, end);
    });
  }
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    host: `127.0.0.1:${portOf(server)}`,
    cutAfter(bytes, run) {
      leftBytes = bytes;
      between = run;
    },
    get cuts() {
      return cuts;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
