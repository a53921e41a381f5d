// SPDX-License-Identifier: Apache-2.0
// A program of the bench: started, killed and started again as it was; ended with the bench.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { openSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";

const READY_TRIES = 300;
const READY_STEP_MS = 100;
const RESTARTS = 40;
const RESTART_STEP_MS = 2_000;

export class Program {
  readonly #path: string;
  readonly #arguments: readonly string[];
  readonly #log: string;
  readonly #port: number;
  #child: ChildProcess | undefined;

  /** `port` on 127.0.0.1 answers when it is ready; `log` takes what it prints. */
  constructor(
    path: string,
    given: readonly string[],
    { log, port }: { log: string; port: number },
  ) {
    this.#path = path;
    this.#arguments = given;
    this.#log = log;
    this.#port = port;
  }

  async start(): Promise<void> {
    const out = openSync(this.#log, "a");
    const child = spawn(this.#path, this.#arguments, { stdio: ["ignore", out, out] });
    this.#child = child;
    child.once("error", () => undefined);
    for (let tried = 0; tried < READY_TRIES; tried += 1) {
      if (await isOpen(this.#port)) return;
      if (child.exitCode !== null || child.signalCode !== null) break;
      await pause(READY_STEP_MS);
    }
    const said = (await readFile(this.#log, "utf8")).slice(-1_000);
    const state = `exit status ${child.exitCode}, signal ${child.signalCode}`;
    throw new Error(`${this.#path} does not listen on port ${this.#port} (${state}): ${said}`);
  }

  /** As a supervisor would: a port may be taken for a minute after a crash. */
  async restart(): Promise<void> {
    for (let tried = 1; ; tried += 1) {
      try {
        await this.start();
        return;
      } catch (error) {
        if (tried === RESTARTS) throw error;
        await pause(RESTART_STEP_MS);
      }
    }
  }

  /** At once, as a crash would. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }
}

// Below the range of outgoing connections; elsewhere each time, for a port stays taken for a minute
// after the crash of who listened.
const PORTS = { first: 12_000, count: 8_000 };
let nextPort = Math.floor(Math.random() * PORTS.count);

/** A port of 127.0.0.1 that nobody listens on. */
export async function benchPort(): Promise<number> {
  for (;;) {
    const port = PORTS.first + (nextPort % PORTS.count);
    nextPort += 1;
    if (!(await isOpen(port))) return port;
  }
}

export function pause(durationMs: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, durationMs);
  });
}

function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
