// SPDX-License-Identifier: Apache-2.0
// The network before a registry, as bad as it is told to be: a relay of bytes that can be slow,
// stand still, break off, change bytes or refuse. Free of test libraries: it also runs in a guest.

import { once } from "node:events";
import { type Socket, connect, createServer } from "node:net";
import { portOf } from "./port.ts";

export interface Weather {
  /** New connections are closed at once, old ones cut. */
  readonly refuses?: boolean;
  /** Connections stay, no byte passes. */
  readonly stalls?: boolean;
  /** A connection is closed after so many bytes of answers. */
  readonly truncatesAt?: number;
  /** One byte of every so many of answers is another. */
  readonly corruptsEach?: number;
  /** Of all connections together. */
  readonly bytesPerSecond?: number;
}

const STEP_MS = 20;
/** Connections take turns with so much. */
const TURN_BYTES = 16_384;

interface Pair {
  readonly client: Socket;
  readonly upstream: Socket;
  sent: number;
}

export class Way {
  readonly #server;
  /** Whoever has waited for longest is first. */
  readonly #pairs = new Set<Pair>();
  #fair: Weather;
  #weather: Weather;
  #credit = 0;
  readonly #ticking;

  private constructor(target: number, fair: Weather) {
    this.#fair = fair;
    this.#weather = fair;
    this.#server = createServer((client) => {
      this.#join(client, connect(target, "127.0.0.1"));
    });
    this.#ticking = setInterval(() => {
      this.#tick();
    }, STEP_MS);
  }

  /** `fair`: how it is when nothing else is said. */
  static async start(target: number, fair: Weather = {}): Promise<Way> {
    const way = new Way(target, fair);
    way.#server.listen(0, "127.0.0.1");
    await once(way.#server, "listening");
    return way;
  }

  get host(): string {
    return `127.0.0.1:${portOf(this.#server)}`;
  }

  set(weather: Weather): void {
    this.#weather = { ...this.#fair, ...weather };
    if (weather.refuses === true) this.cut();
  }

  /** How it is from now on when nothing else is said. */
  fair(weather: Weather): void {
    this.#fair = weather;
    this.clear();
  }

  clear(): void {
    this.set({});
  }

  cut(): void {
    for (const { client, upstream } of this.#pairs) {
      client.destroy();
      upstream.destroy();
    }
  }

  async stop(): Promise<void> {
    clearInterval(this.#ticking);
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
  }

  #join(client: Socket, upstream: Socket): void {
    const pair: Pair = { client, upstream, sent: 0 };
    this.#pairs.add(pair);
    const end = (): void => {
      client.destroy();
      upstream.destroy();
      this.#pairs.delete(pair);
    };
    for (const socket of [client, upstream]) socket.on("error", end).on("close", end);
    if (this.#weather.refuses === true) {
      end();
      return;
    }
    client.pipe(upstream);
    upstream.on("readable", () => {
      // What is rationed waits for its turn.
      if (this.#weather.bytesPerSecond !== undefined) return;
      while (this.#pass(pair, 65_536)) continue;
    });
  }

  #tick(): void {
    const { bytesPerSecond } = this.#weather;
    if (bytesPerSecond !== undefined) {
      this.#credit = Math.min(bytesPerSecond / 4, this.#credit + (bytesPerSecond * STEP_MS) / 1000);
    }
    // Whoever had its turn comes again, behind the others.
    for (const pair of this.#pairs) {
      if (!this.#pass(pair, TURN_BYTES)) continue;
      this.#pairs.delete(pair);
      this.#pairs.add(pair);
    }
  }

  /** False when nothing may pass, or is there. */
  #pass(pair: Pair, mostBytes: number): boolean {
    const { client, upstream } = pair;
    const { stalls, bytesPerSecond, truncatesAt, corruptsEach } = this.#weather;
    if (stalls === true || client.destroyed || client.writableLength >= 1 << 20) return false;
    const allowed = bytesPerSecond === undefined ? mostBytes : Math.floor(this.#credit);
    const length = Math.min(allowed, mostBytes, upstream.readableLength);
    if (length <= 0) return false;
    const piece: unknown = upstream.read(length);
    if (!(piece instanceof Uint8Array)) return false;
    if (bytesPerSecond !== undefined) this.#credit -= piece.length;
    if (corruptsEach !== undefined) corrupt(piece, pair.sent, corruptsEach);
    pair.sent += piece.length;
    client.write(piece);
    if (truncatesAt !== undefined && pair.sent >= truncatesAt) client.end();
    return true;
  }
}

function corrupt(piece: Uint8Array, sent: number, each: number): void {
  const first = (each - (sent % each)) % each;
  for (let at = first; at < piece.length; at += each) piece[at] = (piece[at] ?? 0) ^ 0x10;
}
