// SPDX-License-Identifier: Apache-2.0
// A log that keeps its lines for a test to look at.

import type { Log, LogMethod } from "../../src/platform/log.ts";

export interface LogLine {
  readonly level: keyof Log;
  readonly fields: object;
  readonly message: string;
}

export class QuietLog implements Log {
  readonly lines: LogLine[] = [];
  readonly trace = this.#method("trace");
  readonly debug = this.#method("debug");
  readonly info = this.#method("info");
  readonly warn = this.#method("warn");
  readonly error = this.#method("error");

  messages(level: keyof Log): string[] {
    return this.lines.filter((line) => line.level === level).map(({ message }) => message);
  }

  #method(level: keyof Log): LogMethod {
    return (fields, message) => {
      this.lines.push({ level, fields, message });
    };
  }
}
