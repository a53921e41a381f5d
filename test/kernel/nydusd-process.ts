// SPDX-License-Identifier: Apache-2.0
// erofsd-nydusd as the snapshotter runs it: started with its arguments, watched by a connection
// that says nothing, asked over its socket, killed.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { type Socket, connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { isJson } from "../../src/nydusd/bind-fields.ts";
import type { Answer } from "./nydusd-recorded.ts";
import { PROGRAM, SLOWNESS } from "./support/settings.ts";

export const NYDUSD = PROGRAM.replace(/erofsd\.js$/, "erofsd-nydusd.js");
const PATIENCE_MS = 20_000 * SLOWNESS;

export class Nydusd {
  readonly apiSocket: string;
  readonly #child: ChildProcess;
  #output = "";
  /** Ends of the silent connection: one is a death, two are two. */
  hangups = 0;
  #liveness: Socket | undefined;

  constructor(args: readonly string[]) {
    const at = args.indexOf("--apisock");
    this.apiSocket = args[at + 1] ?? "";
    this.#child = spawn(process.execPath, [NYDUSD, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on("data", (piece: Buffer) => {
        this.#output += piece.toString();
      });
    }
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  get output(): string {
    return this.#output.slice(-6000);
  }

  /** The socket accepts: what the snapshotter takes for readiness. */
  async untilListening(): Promise<void> {
    await this.#until(async () => {
      if (!existsSync(this.apiSocket)) return false;
      return this.ask("GET", "/api/v1/daemon").then(
        () => true,
        () => false,
      );
    }, "does not listen");
  }

  async untilState(state: string): Promise<void> {
    await this.#until(async () => (await this.state()) === state, `is not ${state}`);
  }

  async state(): Promise<unknown> {
    const { body } = await this.ask("GET", "/api/v1/daemon");
    return isJson(body) ? body["state"] : undefined;
  }

  /** Opens the connection that stands for the daemon's life. */
  async watch(): Promise<void> {
    const socket = connect(this.apiSocket);
    socket.on("end", () => {
      this.hangups += 1;
    });
    socket.on("error", () => undefined);
    await once(socket, "connect");
    this.#liveness = socket;
  }

  unwatch(): void {
    this.#liveness?.destroy();
    this.#liveness = undefined;
  }

  /** A string body is sent as it is. */
  ask(method: string, path: string, body?: unknown): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const { apiSocket: socketPath } = this;
      const request = httpRequest({ socketPath, method, path, agent: false }, (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (piece: string) => {
          text += piece;
        });
        response.on("end", () => {
          const parsed: unknown = text === "" ? undefined : JSON.parse(text);
          resolve({ status: response.statusCode ?? 0, body: parsed });
        });
      });
      request.on("error", reject);
      if (body === undefined) request.end();
      else request.end(typeof body === "string" ? body : JSON.stringify(body));
    });
  }

  /** Sends a signal, waits for the end: the exit status or the signal's name. */
  async end(signal?: NodeJS.Signals): Promise<number | string> {
    const ended = this.hasEnded ? undefined : once(this.#child, "exit");
    if (signal !== undefined) this.#child.kill(signal);
    const late = sleep(PATIENCE_MS, "late" as const, { ref: false });
    if (ended !== undefined && (await Promise.race([ended, late])) === "late") {
      this.#child.kill("SIGKILL");
      throw new Error(`the daemon does not end:\n${this.output}`);
    }
    return this.#child.exitCode ?? this.#child.signalCode ?? "?";
  }

  async #until(test: () => Promise<boolean>, problem: string): Promise<void> {
    for (const endMs = performance.now() + PATIENCE_MS; !(await test()); ) {
      if (this.hasEnded || performance.now() > endMs) {
        throw new Error(`the daemon ${problem}:\n${this.output}`);
      }
      await sleep(20);
    }
  }
}
