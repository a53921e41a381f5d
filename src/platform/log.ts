// SPDX-License-Identifier: Apache-2.0
// What the rooms need of a logger (pino's shape), and how the daemon makes one:
// JSON lines on stdout, or readable text on a terminal.

import { type Logger, pino } from "pino";
import type { LogFormat, LogLevel } from "./log-choices.ts";

export type LogMethod = (fields: object, message: string) => void;

export interface Log {
  trace: LogMethod;
  debug: LogMethod;
  info: LogMethod;
  warn: LogMethod;
  error: LogMethod;
}

/** Headers and fields whose values never reach a log. */
const SECRET_PATHS = [
  "authorization",
  "password",
  "token",
  "*.authorization",
  "*.password",
  "*.token",
];

export interface RootLog {
  readonly log: Logger;
  /** Writes out what is buffered; call it before the process ends. */
  flush(): void;
}

/**
 * The root logger: on stdout, where `auto` is pretty on a terminal and JSON elsewhere, or as JSON
 * lines to a destination of the caller's, who then looks after its buffers.
 */
export async function createLog(options: {
  level: LogLevel;
  format: LogFormat;
  destination?: { write(line: string): void };
}): Promise<RootLog> {
  const settings = {
    level: options.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: SECRET_PATHS, censor: "[secret]" },
  };
  if (options.destination !== undefined) {
    return { log: pino(settings, options.destination), flush: () => undefined };
  }
  const pretty = options.format === "pretty" || (options.format === "auto" && process.stdout.isTTY);
  if (pretty) {
    const { default: prettyStream } = await import("pino-pretty");
    const stream = prettyStream({ ignore: "time", singleLine: true, sync: true });
    return { log: pino(settings, stream), flush: () => undefined };
  }
  const destination = pino.destination({ fd: 1, sync: false });
  return {
    log: pino(settings, destination),
    flush: () => {
      destination.flushSync();
    },
  };
}
