// SPDX-License-Identifier: Apache-2.0
// Connections for the HTTP client. Node reads a socket into a fresh buffer each time, and fresh
// memory is what a slow machine has least of; without TLS each connection reads into two buffers
// of its own in turn. The bytes are copied into a slab at once, so two are enough.

import { type Socket, type TcpNetConnectOpts, connect as connectSocket } from "node:net";
import type { ReadableOptions } from "node:stream";
import { buildConnector } from "undici";
import { KIB } from "../../units.ts";

const BUFFER_BYTES = 128 * KIB;
const KEEP_ALIVE_PROBE_MS = 60_000;

/** As undici's own connector, with `options` as there. */
export function createConnector(options: buildConnector.BuildOptions): buildConnector.connector {
  const otherwise = buildConnector(options);
  const timeoutMs = options.timeout ?? 0;
  return (to, callback) => {
    if (to.protocol !== "http:" || to.httpSocket !== undefined) {
      otherwise(to, callback);
      return;
    }
    connectPlain({ host: to.hostname, port: Number(to.port || 80), timeoutMs }, callback);
  };
}

function connectPlain(
  to: { readonly host: string; readonly port: number; readonly timeoutMs: number },
  callback: buildConnector.Callback,
): void {
  const buffers = new ReadBuffers();
  // Node's types do not know that a socket takes what its stream takes.
  const options: TcpNetConnectOpts & ReadableOptions = {
    host: to.host.replace(/^\[(.*)\]$/, "$1"),
    port: to.port,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_PROBE_MS,
    noDelay: true,
    autoSelectFamily: true,
    // A piece that fills the queue would stop the socket, and start it again when it is looked at.
    highWaterMark: 4 * BUFFER_BYTES,
    onread: {
      buffer: () => buffers.next(),
      callback: (bytes, buffer) => {
        buffers.filled(buffer, socket.readableLength === 0);
        return socket.push(buffer.subarray(0, bytes));
      },
    },
  };
  const socket: Socket = connectSocket(options);
  let isSettled = false;
  const settle = (error: Error | null): void => {
    if (isSettled) return;
    isSettled = true;
    clearTimeout(timer);
    socket.off("error", settle);
    if (error === null) callback(null, socket);
    else callback(error, null);
  };
  const timer = setTimeout(() => {
    socket.destroy();
    settle(Object.assign(new Error("no connection in time"), { code: "UND_ERR_CONNECT_TIMEOUT" }));
  }, to.timeoutMs);
  socket.once("connect", () => settle(null));
  socket.once("error", settle);
}

/** Node asks for the next buffer right behind a piece, before anyone has looked at that piece. */
class ReadBuffers {
  readonly #two: readonly [Uint8Array, Uint8Array] = [
    Buffer.allocUnsafeSlow(BUFFER_BYTES),
    Buffer.allocUnsafeSlow(BUFFER_BYTES),
  ];
  #unread: Uint8Array | undefined;
  #isBehind = false;

  /** `buffer` holds a piece now; `isOnly`: all pieces before it have been looked at. */
  filled(buffer: Uint8Array, isOnly: boolean): void {
    this.#unread = buffer;
    this.#isBehind = !isOnly;
  }

  next(): Uint8Array {
    if (this.#isBehind) return Buffer.allocUnsafeSlow(BUFFER_BYTES);
    return this.#unread === this.#two[0] ? this.#two[1] : this.#two[0];
  }
}
