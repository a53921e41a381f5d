// SPDX-License-Identifier: Apache-2.0
// Runs a credential program: no shell, bounded in time and output, in a process group of its own
// so that what it started ends with it. Its errors name what happened and nothing it printed.

import { spawn } from "node:child_process";
import type { Clock } from "../../../platform/clock.ts";

const TIMEOUT_MS = 10_000;
const OUTPUT_BYTES_MAX = 64 * 1024;

export interface ProgramRun {
  /** Absolute. */
  readonly path: string;
  readonly input: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

export interface ProgramEnd {
  readonly status: number;
  readonly output: string;
}

/** Runs `path get`. Rejects when it cannot be started, is killed, is too slow or prints too much. */
export function runProgram(run: ProgramRun): Promise<ProgramEnd> {
  const { path, input, environment, clock, signal } = run;
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(new Error("the daemon is stopping"));
      return;
    }
    const child = spawn(path, ["get"], {
      cwd: "/",
      // A proxy it may need; the passwords of other registries are not its business.
      env: { ...environment, EROFSD_REGISTRY_AUTH: undefined },
      stdio: ["pipe", "pipe", "ignore"],
      detached: true,
    });
    const pieces: Buffer[] = [];
    let outputBytes = 0;
    const settle = (): void => {
      cancelTimer();
      signal.removeEventListener("abort", stopped);
    };
    const giveUp = (reason: string): void => {
      settle();
      killGroup(child.pid);
      // A grandchild may hold the pipe open: it is not waited for.
      child.stdout.destroy();
      reject(new Error(reason));
    };
    const stopped = (): void => giveUp("the daemon is stopping");
    const cancelTimer = clock.after(TIMEOUT_MS, () => giveUp(`no answer within ${TIMEOUT_MS} ms`));
    signal.addEventListener("abort", stopped, { once: true });
    child.on("error", (error) => {
      const code = "code" in error ? String(error.code) : "unknown error";
      giveUp(`it cannot be started (${code})`);
    });
    child.on("close", (code) => {
      settle();
      if (code === null) reject(new Error("it was killed"));
      else resolve({ status: code, output: Buffer.concat(pieces).toString("utf8") });
    });
    child.stdout.on("data", (piece: Buffer) => {
      outputBytes += piece.length;
      if (outputBytes > OUTPUT_BYTES_MAX) giveUp(`it prints more than ${OUTPUT_BYTES_MAX} bytes`);
      else pieces.push(piece);
    });
    // It may end without having read the host.
    child.stdin.on("error", () => undefined);
    child.stdin.end(input);
  });
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has ended already.
  }
}
