// SPDX-License-Identifier: Apache-2.0
// A TCP proxy that makes loopback behave like a link: each connection to it is one to the target,
// with a wire between them in either direction. Knows nothing of HTTP.

import { once } from "node:events";
import { type Server, type Socket, connect, createServer } from "node:net";
import { systemClock as clock } from "../../../src/platform/clock.ts";
import { MIB } from "../../../src/units.ts";
import { portOf } from "../../support/port.ts";
import type { SeededRandom } from "../../support/seeded-random.ts";
import { Lane, type LinkShape, Wire } from "./wire.ts";

/** What a sender may have under way: more than any link here holds, so it limits nobody's rate. */
const SEND_WINDOW_BYTES = 4 * MIB;

export interface LinkStats {
  readonly connections: number;
  /** From the target to its clients. */
  readonly downBytes: number;
  readonly upBytes: number;
  readonly losses: number;
}

export class LinkProxy {
  readonly #server: Server;
  readonly #target: { readonly host: string; readonly port: number };
  readonly #up: Wire;
  readonly #down: Wire;
  readonly #sockets = new Set<Socket>();
  #shape: LinkShape;
  #connections = 0;

  constructor(target: string, shape: LinkShape, random: SeededRandom) {
    const { hostname, port } = new URL(`http://${target}`);
    this.#target = { host: hostname, port: Number(port) };
    this.#shape = shape;
    this.#up = new Wire(shape, clock, random);
    this.#down = new Wire(shape, clock, random);
    this.#server = createServer({ noDelay: true }, (client) => {
      this.#join(client);
    });
  }

  /** Resolves with its address, `127.0.0.1:<port>`. */
  async listen(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `127.0.0.1:${portOf(this.#server)}`;
  }

  /** For connections that there are as for those to come. */
  set shape(shape: LinkShape) {
    this.#shape = shape;
    this.#up.shape = shape;
    this.#down.shape = shape;
  }

  get stats(): LinkStats {
    return {
      connections: this.#connections,
      downBytes: this.#down.carriedBytes,
      upBytes: this.#up.carriedBytes,
      losses: this.#down.losses + this.#up.losses,
    };
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #join(client: Socket): void {
    this.#connections += 1;
    const origin = connect({ ...this.#target, noDelay: true });
    // The client's first bytes wait for the handshake, which loopback has done at once.
    const openMs = clock.nowMs() + this.#shape.roundTripMs * 1.5;
    const up = flow(client, origin, this.#up, openMs);
    const down = flow(origin, client, this.#down, 0);
    const close = (): void => {
      this.#up.drop(up);
      this.#down.drop(down);
      client.destroy();
      origin.destroy();
      this.#sockets.delete(client);
      this.#sockets.delete(origin);
    };
    for (const socket of [client, origin]) {
      this.#sockets.add(socket);
      // Either side may break at any moment; `close` follows.
      socket.on("error", () => undefined);
    }
    client.on("close", close);
    // What the target sent before it closed is still on its way.
    origin.on("error", close);
  }
}

/** Brings what `from` says over `wire` to `to`, holding `from` back while too much is under way. */
function flow(from: Socket, to: Socket, wire: Wire, notBeforeMs: number): Lane {
  const isFull = (): boolean => lane.pendingBytes + to.writableLength > SEND_WINDOW_BYTES;
  const resume = (): void => {
    if (from.isPaused() && !isFull()) from.resume();
  };
  const lane = new Lane(
    {
      deliver(bytes) {
        to.write(bytes);
        resume();
      },
      end() {
        to.end();
      },
    },
    notBeforeMs,
  );
  from.on("data", (bytes: Buffer) => {
    wire.push(lane, bytes);
    if (isFull()) from.pause();
  });
  from.on("end", () => {
    wire.end(lane);
  });
  to.on("drain", resume);
  return lane;
}
