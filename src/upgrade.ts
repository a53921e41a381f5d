// SPDX-License-Identifier: Apache-2.0
// One daemon following another without a gap: the old one starts the program again beside itself,
// and steps aside when the new one is prepared; should that one not get ready, it goes on.
//
//   old: start -> (prepared) -> stops taking requests, lets go -> "go" -> (ready) -> leaves
//   new: loads all it needs -> "prepared" -> ("go") -> takes up from the keeper -> "ready"

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { DaemonError } from "./errors.ts";

/** "alone", or "socket" when CONTROL_FD is the control socket. */
const VARIABLE = "EROFSD_FOLLOWS";
const CONTROL_FD = 4;
/** A new version that needs longer is dropped. */
const PREPARE_LIMIT_MS = 60_000;
const READY_LIMIT_MS = 30_000;
const KILL_LIMIT_MS = 5000;

type Word = "prepared" | "go" | "ready";

/** The old daemon's side. */
export class Successor {
  readonly #child: ChildProcess;
  readonly #words = new Set<unknown>();
  readonly #waiting = new Set<() => void>();
  #ended: string | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (word) => {
      this.#words.add(word);
      this.#wake();
    });
    child.on("error", (error) => {
      this.#end(error.message);
    });
    child.on("exit", (code, signal) => {
      this.#end(`it ended with ${signal ?? `status ${code}`}`);
    });
  }

  /**
   * Starts the program that this process was started with, as it is on disk now, with the same
   * arguments. Resolves when it is prepared. Fault: upgrade_failed; then it is gone.
   */
  static async start(given: {
    readonly environment: () => Readonly<Record<string, string>>;
    readonly controlFd: number | undefined;
  }): Promise<Successor> {
    const [, script = "", ...words] = process.argv;
    const { controlFd } = given;
    const follows = controlFd === undefined ? "alone" : "socket";
    const child = spawn(process.execPath, [...process.execArgv, script, ...words], {
      env: { ...process.env, ...given.environment(), [VARIABLE]: follows },
      stdio: ["ignore", "inherit", "inherit", "ipc", controlFd ?? "ignore"],
    });
    const successor = new Successor(child);
    await successor.#until("prepared", PREPARE_LIMIT_MS);
    return successor;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Everything is left for it. Resolves when it serves. Fault: upgrade_failed; then it is gone. */
  async go(): Promise<void> {
    this.#child.send("go" satisfies Word);
    await this.#until("ready", READY_LIMIT_MS);
    this.#child.disconnect();
    this.#child.unref();
  }

  async drop(): Promise<void> {
    if (this.#ended !== undefined) return;
    this.#child.kill("SIGKILL");
    const signal = AbortSignal.timeout(KILL_LIMIT_MS);
    await once(this.#child, "exit", { signal }).catch(() => undefined);
  }

  async #until(word: Word, limitMs: number): Promise<void> {
    const untilMs = performance.now() + limitMs;
    while (!this.#words.has(word)) {
      const leftMs = untilMs - performance.now();
      if (this.#ended !== undefined || leftMs <= 0) {
        const detail = this.#ended ?? `it was not ${word} within ${limitMs / 1000} s`;
        await this.drop();
        throw new DaemonError({ code: "upgrade_failed", detail });
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#waiting.add(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  #end(how: string): void {
    this.#ended = how;
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }
}

/** The new daemon's side. */
export interface Predecessor {
  readonly pid: number;
  /** The control socket, where the old one has it of systemd. */
  readonly controlFd: number | undefined;
  /** Tells that all is prepared, and resolves when it is our turn. Rejects when the old one died first. */
  turn(): Promise<void>;
  /** We serve: the old one may leave. */
  ready(): void;
}

/** Undefined when this process was not started to follow another one. */
export function predecessor(environment = process.env): Predecessor | undefined {
  const follows = environment[VARIABLE];
  Reflect.deleteProperty(environment, VARIABLE);
  if (follows === undefined || process.send === undefined) return undefined;
  const send = process.send.bind(process);
  return {
    pid: process.ppid,
    controlFd: follows === "socket" ? CONTROL_FD : undefined,
    turn: () =>
      new Promise((resolve, reject) => {
        process.on("message", (word) => {
          if (word === ("go" satisfies Word)) resolve();
        });
        const gone = (): void => {
          reject(new DaemonError({ code: "upgrade_failed", detail: "the old daemon is gone" }));
        };
        process.once("disconnect", gone);
        // One that was gone before this is told of by the answer alone.
        send("prepared" satisfies Word, undefined, undefined, (error) => {
          if (error !== null) gone();
        });
      }),
    ready() {
      process.removeAllListeners("message");
      // The old one may have been killed just now.
      send("ready" satisfies Word, undefined, undefined, () => undefined);
      process.channel?.unref();
    },
  };
}
