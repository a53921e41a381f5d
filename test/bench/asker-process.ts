// SPDX-License-Identifier: Apache-2.0
// Whoever asks the control socket so many times a second, as a process of its own: what it costs, and
// how late it is itself, is not the daemon's. Asks until the process that forked it (asker.ts) says
// so, and then tells how long each answer took.
//   asker-process.js SOCKET

import { type Socket, connect } from "node:net";
import { setPriority } from "node:os";
import { setTimeout } from "node:timers/promises";

const PRIORITY = -15;
const RATE = 500;
const CONNECTIONS = 16;
const REQUEST = "GET /v1/mounts HTTP/1.1\r\nHost: erofsd\r\n\r\n";
const HEAD_END = "\r\n\r\n";

/** One connection, with one request under way at most; it does no more than it takes to count bytes. */
class Line {
  readonly #socket: Socket;
  #onAnswer: (() => void) | undefined;
  /** Undefined: the head of the answer is not there. */
  #bodyLeft: number | undefined;
  #head = "";

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on("data", (bytes: Buffer) => {
      this.#take(bytes);
    });
    // The daemon does not end before this does.
    this.#socket.on("close", () => process.exit(1));
  }

  ask(onAnswer: () => void): void {
    this.#onAnswer = onAnswer;
    this.#socket.write(REQUEST);
  }

  #take(bytes: Buffer): void {
    let left = bytes.length;
    if (this.#bodyLeft === undefined) {
      this.#head += bytes.toString("latin1");
      const at = this.#head.indexOf(HEAD_END);
      if (at === -1) return;
      const head = this.#head.slice(0, at);
      const length = /^HTTP\/1\.1 200 [^]*\r\ncontent-length: (\d+)/i.exec(head)?.[1];
      if (length === undefined) throw new Error(`GET /v1/mounts: ${head}`);
      left = this.#head.length - at - HEAD_END.length;
      this.#bodyLeft = Number(length);
      this.#head = "";
    }
    this.#bodyLeft -= left;
    if (this.#bodyLeft > 0) return;
    this.#bodyLeft = undefined;
    const done = this.#onAnswer;
    this.#onAnswer = undefined;
    done?.();
  }
}

try {
  setPriority(PRIORITY);
} catch {
  // Not root: it has to share.
}
const [, , socketPath = ""] = process.argv;
/** Each in its turn, so that none is idle for so long that it is closed. */
const free = Array.from({ length: CONNECTIONS }, () => new Line(socketPath));
const times: number[] = [];
const lateTimes: number[] = [];
/** When what was not asked yet should have been. */
const waiting: number[] = [];
const progress = { isOver: false };

function askNext(): void {
  while (waiting.length > 0) {
    const line = free.shift();
    if (line === undefined) return;
    const dueMs = waiting.shift() ?? 0;
    line.ask(() => {
      times.push(performance.now() - dueMs);
      free.push(line);
      askNext();
    });
  }
}

process.on("message", () => {
  progress.isOver = true;
});
process.on("disconnect", () => process.exit(0));
process.send?.("ready");
const startMs = performance.now();
for (let sent = 0; !progress.isOver; await setTimeout(1)) {
  // Whether or not those before are answered.
  for (; sent < ((performance.now() - startMs) * RATE) / 1000; sent += 1) {
    const dueMs = startMs + (sent * 1000) / RATE;
    lateTimes.push(performance.now() - dueMs);
    waiting.push(dueMs);
  }
  askNext();
}
while (times.length < lateTimes.length) await setTimeout(1);
const { user, system } = process.cpuUsage();
const cpuShare = (user + system) / 1000 / (performance.now() - startMs);
process.send?.({ times, lateTimes, cpuShare }, () => process.exit(0));
