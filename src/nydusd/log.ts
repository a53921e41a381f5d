// SPDX-License-Identifier: Apache-2.0
// The adapter's log. The logging library is loaded when the API socket already listens; what is
// said before waits here.

import type { Log, LogMethod, RootLog } from "../platform/log.ts";
import type { NydusdLogLevel } from "./options.ts";
import type { LineSink } from "./log-lines.ts";

const EARLY_MAX = 1000;

type Level = keyof Log;

export class EarlyLog implements Log {
  #early: { level: Level; fields: object; message: string }[] = [];
  #root: RootLog["log"] | undefined;

  readonly trace: LogMethod = (fields, message) => {
    // What is said before a level is known is not for tracing.
    this.#root?.trace(fields, message);
  };
  readonly debug: LogMethod = (fields, message) => {
    this.#say("debug", fields, message);
  };
  readonly info: LogMethod = (fields, message) => {
    this.#say("info", fields, message);
  };
  readonly warn: LogMethod = (fields, message) => {
    this.#say("warn", fields, message);
  };
  readonly error: LogMethod = (fields, message) => {
    this.#say("error", fields, message);
  };

  /** Loads the library and says what waited. */
  async attach(options: { level: NydusdLogLevel; sink: LineSink }): Promise<void> {
    const { createLog } = await import("../platform/log.ts");
    const root = await createLog({
      level: options.level,
      format: "json",
      destination: options.sink,
    });
    this.#root = root.log;
    for (const { level, fields, message } of this.#early.splice(0))
      root.log[level](fields, message);
  }

  /** False when there is no such level. */
  setLevel(level: NydusdLogLevel): void {
    if (this.#root !== undefined) this.#root.level = level;
  }

  #say(level: Level, fields: object, message: string): void {
    if (this.#root !== undefined) this.#root[level](fields, message);
    else if (this.#early.length < EARLY_MAX) this.#early.push({ level, fields, message });
  }
}
