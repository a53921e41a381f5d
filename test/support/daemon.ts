// SPDX-License-Identifier: Apache-2.0
// Runs the compiled daemon as users do: a process with a config file, a log, a control socket.
// Free of test libraries: it also runs inside a guest.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ask } from "../../src/control/client.ts";
import { type Status, statusAnswer } from "../../src/control/schema.ts";

export interface DaemonStart {
  /** The compiled program: <checkout>/dist/cli/erofsd.js. */
  readonly program: string;
  /** On ext4 or xfs. */
  readonly cacheDir: string;
  /** Further lines of its [cache]. */
  readonly cache?: string;
  /** Further lines of its [control]. */
  readonly control?: string;
  /** Further lines of TOML, after the sections this file writes. */
  readonly config?: string;
  /** Lines of TOML that come before all sections. */
  readonly first?: string;
  /** Variables beside those that we have ourselves. */
  readonly environment?: Readonly<Record<string, string>>;
  /** The ready line is awaited, so it must be logged. */
  readonly logLevel?: "trace" | "debug" | "info";
  /** Default: `serve`. Of a supervisor `pid` is its own; status() has the daemon's. */
  readonly command?: "serve" | "supervise";
}

export interface LogLine {
  readonly level: number;
  readonly msg: string;
  readonly [field: string]: unknown;
}

export interface RunningDaemon {
  readonly pid: number;
  readonly socketPath: string;
  readonly configPath: string;
  /** Everything logged so far. */
  readonly log: readonly LogLine[];
  /** From the start of the process to its ready line. */
  readonly readyMs: number;
  status(): Promise<Status>;
  /** Resolves with the first line, past or to come, that `test` accepts. */
  untilLogged(test: (line: LogLine) => boolean): Promise<LogLine>;
  /** Sends the signal and resolves with the exit status, or the signal's name. */
  stop(signal?: NodeJS.Signals): Promise<number | string>;
}

/** Starts `erofsd serve` and resolves when it is ready. Rejects with its log when it ends before. */
export async function startDaemon(start: DaemonStart): Promise<RunningDaemon> {
  const home = await mkdtemp(join(tmpdir(), "erofsd-daemon-"));
  await mkdir(start.cacheDir, { recursive: true });
  const socketPath = join(home, "erofsd.sock");
  const configPath = join(home, "config.toml");
  await writeFile(
    configPath,
    [
      start.first ?? "",
      `[cache]\ndir = ${JSON.stringify(start.cacheDir)}`,
      start.cache ?? "",
      `[control]\nsocket = ${JSON.stringify(socketPath)}`,
      start.control ?? "",
      `[log]\nlevel = "${start.logLevel ?? "info"}"\nformat = "json"`,
      start.config ?? "",
    ].join("\n"),
  );
  const startMs = performance.now();
  const args = [start.command ?? "serve", "--config", configPath];
  const child = spawn(start.program, args, {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...start.environment },
  });
  const log = new LogReader(child);
  await log.until((line) => line.msg === "ready");
  return {
    pid: child.pid ?? 0,
    socketPath,
    configPath,
    log: log.lines,
    readyMs: performance.now() - startMs,
    status: () => ask(socketPath, { method: "GET", path: "/v1/status", answer: statusAnswer }),
    untilLogged: (test) => log.until(test),
    async stop(signal = "SIGTERM") {
      if (child.exitCode === null && child.signalCode === null) {
        const ended = once(child, "exit");
        child.kill(signal);
        await ended;
      }
      await rm(home, { recursive: true, force: true });
      return child.exitCode ?? child.signalCode ?? "?";
    },
  };
}

class LogReader {
  readonly lines: LogLine[] = [];
  readonly #watchers = new Set<() => void>();
  #ended = false;

  constructor(child: ChildProcess) {
    const { stdout } = child;
    if (stdout === null) throw new Error("the daemon has no stdout");
    createInterface({ input: stdout })
      .on("line", (text) => {
        this.lines.push(parseLine(text));
        for (const watcher of this.#watchers) watcher();
      })
      .on("close", () => {
        this.#ended = true;
        for (const watcher of this.#watchers) watcher();
      });
  }

  until(test: (line: LogLine) => boolean): Promise<LogLine> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        const found = this.lines.find(test);
        if (found === undefined && !this.#ended) return;
        this.#watchers.delete(look);
        if (found !== undefined) resolve(found);
        else reject(new Error(`the daemon ended:\n${this.lines.map((l) => l.msg).join("\n")}`));
      };
      this.#watchers.add(look);
      look();
    });
  }
}

function parseLine(text: string): LogLine {
  try {
    const line: unknown = JSON.parse(text);
    if (isLogLine(line)) return line;
  } catch {
    // not JSON: shown as it is
  }
  return { level: 0, msg: text };
}

function isLogLine(line: unknown): line is LogLine {
  return typeof line === "object" && line !== null && "msg" in line && "level" in line;
}
